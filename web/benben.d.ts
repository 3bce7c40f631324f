/** Language models in the browser, with a KV cache shaped like a pyramid. */

/** Which rows of the conversation stay in the cache, and in how many bits; everything has a default. */
export interface Kv {
  policy?: "full" | "pyramid" | "tsp" | "kv-only" | "streaming" | "tova" | "h2o" | "snapkv" | "pyramidkv" | "joint" | "auto";
  /** A published PyramidInfer configuration. */
  preset?: "7b" | "13b" | "70b";
  /** The share of the rows that live, averaged over the layers, above 0 to 1. */
  keep?: number;
  /** The rows of a layer that live, averaged over the layers. */
  rows?: number;
  /** The share of a full f16 cache's bytes; implies `auto`. */
  share?: number;
  /** Every KV head keeps rows of its own (`kv-only`). */
  perHead?: boolean;
  kBits?: 16 | 8 | 4;
  vBits?: 16 | 8 | 4;
}

/** How far something is: bytes while a model loads, tokens while a prompt runs. */
export interface Progress {
  /** `restore`: the device was lost, and the model is on its way onto a new one. */
  phase: "download" | "read" | "upload" | "compile" | "prefill" | "restore";
  done: number;
  total: number | null;
  /** Bytes per second. */
  rate: number | null;
}

export interface Message {
  role: "system" | "user" | "assistant";
  content: string;
}

export interface SessionOptions {
  kv?: Kv;
  /** Tokens that prompt and answers may have together; absent, what the model was trained for. */
  context?: number;
}

export interface LoadOptions extends SessionOptions {
  onProgress?: (progress: Progress) => void;
  /** Stops the load; what was loaded is freed. */
  signal?: AbortSignal;
}

export interface GenerateOptions {
  /** Most tokens of the answer; 256. */
  maxTokens?: number;
  /** 0, the default, takes the likeliest token every time. */
  temperature?: number;
  topK?: number;
  topP?: number;
  minP?: number;
  repetitionPenalty?: number;
  seed?: number;
  /** Hears of the prompt as it runs. */
  onProgress?: (progress: Progress) => void;
  /** Stops the answer, also amid its prompt. */
  signal?: AbortSignal;
}

/** One token of an answer. */
export interface Piece {
  /** What it adds to the text; empty while a character is incomplete. */
  text: string;
  /** Absent for the rest of a character that the answer's end cut short. */
  id?: number;
}

export interface Info {
  name: string;
  layers: number;
  /** Tokens that the model was trained for. */
  context: number;
  weightBytes: number;
  /** The adapter in a few words. */
  adapter: string;
  /** True when it is a program on the CPU. */
  software: boolean;
  /** The family of kernels that suits it. */
  kernels: "lanes" | "groups";
  subgroups: boolean;
}

/** Rates are in tokens per second. */
export interface Stats {
  promptTokens: number;
  /** From the start to the first token. */
  prefillSeconds: number;
  prefillRate: number;
  answerTokens: number;
  decodeSeconds: number;
  decodeRate: number;
  /** Tokens of the conversation. */
  tokens: number;
  kvBytes: number;
  /** What a full f16 cache of as many tokens takes. */
  kvBytesFullF16: number;
  rowsPerLayer: number[];
}

export type ErrorCode =
  | "no-webgpu" | "no-adapter" | "unsupported" | "device-lost" | "out-of-memory" | "does-not-fit"
  | "download" | "file" | "format" | "missing-tensor" | "shape" | "text"
  | "context-full" | "invalid" | "cancelled" | "worker" | "unknown";

export class BenbenError extends Error {
  /** Its name is `AbortError` where the code is `cancelled`, and `BenbenError` elsewhere. */
  readonly code: ErrorCode;
  /** Bytes that were needed, where something does not fit. */
  readonly need?: number;
  /** Bytes that there were. */
  readonly limit?: number;
}

export class Benben {
  private constructor();

  /** Loads a model from where it is, or from what it holds. A lost device is loaded anew from the same source. */
  static load(source: string | URL | Blob | ArrayBuffer, options?: LoadOptions): Promise<Benben>;

  readonly info: Info;

  /**
   * Answers a conversation, of which what the cache holds already is not run again, or goes on with a text. Yields
   * a piece for each token, and returns why it ended. If the device is lost meanwhile, the model is loaded onto a
   * new one and the answer goes on.
   */
  generate(prompt: Message[] | string, options?: GenerateOptions): AsyncGenerator<Piece, "stop" | "length" | "cancel">;

  /** Of the last answer, or of the one under way. */
  stats(): Promise<Stats>;

  /**
   * Which tokens live: for each layer the positions whose rows it holds, ascending, one list or one for each KV head.
   * Amid an answer they come with its next token.
   */
  positions(): Promise<Uint32Array[][]>;

  /** The conversation's tokens from the one at `first` on, each for people to read. */
  tokens(first?: number): Promise<string[]>;

  /** Begins a new conversation with other options; the weights stay. */
  configure(options?: SessionOptions): Promise<void>;

  /** Frees everything; calls under way are rejected. */
  dispose(): void;
}
