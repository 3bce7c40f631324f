// Numbers as people say them.

/** Bytes in the unit that leaves one to three digits before the point. */
export function bytes(n) {
  if (n < 1e3) return `${Math.round(n)} B`;
  if (n < 1e6) return `${(n / 1e3).toFixed(1)} kB`;
  return n < 1e9 ? `${(n / 1e6).toFixed(1)} MB` : `${(n / 1e9).toFixed(2)} GB`;
}

/** A duration, as coarse as it is long. */
export function seconds(s) {
  if (s < 10) return `${s.toFixed(1)} s`;
  return s < 90 ? `${Math.round(s)} s` : `${Math.round(s / 60)} min`;
}

/** A rate with two or three digits. */
export function rate(n) {
  return n < 10 ? n.toFixed(1) : Math.round(n).toString();
}
