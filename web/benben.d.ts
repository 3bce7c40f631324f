/** Language models in the browser, with a KV cache shaped like a pyramid. */

/**
 * Which rows of the conversation stay in the cache, and in how many bits. Without any entry it is `auto`, which chooses
 * both from a share of the bytes; where there are others but `policy`, it is what they imply, or else `full`.
 */
export interface Kv {
  policy?: "auto" | "full" | "pyramid" | "tsp" | "kv-only" | "streaming" | "tova" | "h2o" | "snapkv" | "pyramidkv"
    | "joint" | "expected" | "joint-expected";
  /** A published PyramidInfer configuration. */
  preset?: "7b" | "13b" | "70b";
  /** The share of the rows that live, averaged over the layers, above 0 to 1. */
  keep?: number;
  /** The rows of a layer that live, averaged over the layers. */
  rows?: number;
  /** The share of a full f16 cache's bytes, 0.2; implies `auto`. */
  share?: number;
  /** Every KV head keeps rows of its own (`kv-only`). */
  perHead?: boolean;
  kBits?: 16 | 8 | 4 | 3 | 2;
  vBits?: 16 | 8 | 4 | 3 | 2;
  /** Bits of the rows that the policy would drop, which then stay in these. */
  demote?: 16 | 8 | 4 | 3 | 2;
  /** Lets the last third of the layers run on three fifths of a prompt's rows (`auto`). */
  prefillSaver?: boolean;
}

/** How far something is: bytes while a model loads, tokens while a prompt runs. */
export interface Progress {
  /** `restore`: the device was lost or out of memory, and the model is on its way onto a new one. */
  phase: "download" | "read" | "upload" | "compile" | "prefill" | "restore";
  done: number;
  total: number | null;
  /** Bytes per second. */
  rate?: number | null;
  /** Seconds, by that rate. */
  left?: number | null;
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

/** A URL, a file, or its bytes. */
export type Part = string | URL | Blob | ArrayBuffer;

export interface PlanOptions extends SessionOptions {
  /** Bytes of the GPU that may be used; a plan that needs more is refused. */
  memory?: number;
  /** Stops the load, or the look at its plan. What was loaded is freed, what was fetched stays stored. */
  signal?: AbortSignal;
}

/** What a model takes with a first conversation; bytes on the GPU, unless it says otherwise. */
export interface Plan {
  name: string;
  layers: number;
  /** Tokens that the model was trained for. */
  context: number;
  weights: number;
  kv: number;
  /** What a full f16 cache would take instead of `kv`. */
  kvFullF16: number;
  scratch: number;
  /** `weights`, `kv` and `scratch`. */
  total: number;
  /** Bytes that will be fetched, and those that are stored already. */
  download: number;
  stored: number;
  /** `opfs`, or why the model will not be stored. */
  storage: string;
  /** The adapter in a few words. */
  adapter: string;
}

export interface LoadOptions extends PlanOptions {
  /** Compiles the shaders before the model is there, and not when the first answer asks for them; true. */
  warmUp?: boolean;
  /** Is told what the model takes before its first weight is fetched; what it throws, or rejects with, ends the load. */
  onPlan?: (plan: Plan) => unknown;
  onProgress?: (progress: Progress) => void;
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
  plan: Plan;
  /** What the browser said when asked to keep the model also when it runs short of room; null if it was not asked. */
  persisted: boolean | null;
}

/** A model that is kept in the browser. */
export interface Stored {
  name: string;
  url: string;
  /** When it was last used, in milliseconds since 1970. */
  date: number;
  /** Bytes of its files, and those of them that are here. */
  size: number;
  have: number;
  complete: boolean;
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
  /** Bytes of WebAssembly's memory, all conversations together. */
  heapBytes: number;
}

export type ErrorCode =
  | "no-webgpu" | "no-adapter" | "unsupported" | "device-lost" | "out-of-memory" | "does-not-fit"
  | "download" | "file" | "format" | "missing-tensor" | "shape" | "text"
  | "context-full" | "invalid" | "internal" | "damaged-copy" | "busy" | "cancelled" | "worker" | "unknown";

export class BenbenError extends Error {
  /** Its name is `AbortError` where the code is `cancelled`, and `BenbenError` elsewhere. */
  readonly code: ErrorCode;
  /** Bytes that were needed, where something does not fit. */
  readonly need?: number;
  /** Bytes that there were. */
  readonly limit?: number;
  /** Settings that would have let the call succeed, each by itself. */
  readonly advice: Advice[];
}

export type Advice =
  | { kind: "context" | "kv-bits" | "sequences"; value: number }
  | { kind: "weights"; value: "f16" | "q8" | "q4" }
  | { kind: "shorter-answer" | "smaller-share" };

export class Benben {
  private constructor();

  /**
   * Loads a model, GGUF or safetensors, by the URL of one of its files (shards and what lies beside are found by their
   * names), or by all its files. A device that fails is replaced, and loaded from the same source.
   */
  static load(source: Part | Part[], options?: LoadOptions): Promise<Benben>;

  /** What a model would take, from its header alone. */
  static plan(source: Part | Part[], options?: PlanOptions): Promise<Plan>;

  /** What is stored, the last one used first. */
  static stored(): Promise<Stored[]>;

  /** Deletes what is stored under a name or a URL; resolves to the number of models deleted. */
  static remove(which: string): Promise<number>;

  readonly info: Info;

  /**
   * Answers a conversation, of which what the cache holds already is not run again, or goes on with a text. Yields
   * a piece for each token, and returns why it ended. If the device fails meanwhile, the model is loaded onto a new
   * one and the answer goes on.
   */
  generate(prompt: Message[] | string, options?: GenerateOptions): AsyncGenerator<Piece, "stop" | "length" | "cancel">;

  /**
   * Another conversation with the same model, which has said the same so far: it copies no rows, both go on on their
   * own, also at the same time. It waits for an answer under way.
   */
  fork(): Promise<Benben>;

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

  /** Frees a fork, or the model and with it all its forks; calls under way are rejected. */
  dispose(): void;
}
