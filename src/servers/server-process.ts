/**
 * One server process, as its supervisor has it: started, told things, heard of, killed.
 *
 * Invariant: a connection that was handed to a process which ends without having taken it is
 * closed, so that its client makes another one.
 */
import cluster, { type Worker } from 'node:cluster';
import { monotonicNow } from '../call.ts';
import type { Figure } from '../signals/metrics/figures.ts';
import { NUMBER_VARIABLE } from './membership.ts';
import type { ServerMessage, ServerReport, ServerState, SupervisorMessage } from './messages.ts';

const STARTING: ServerState = { isReady: false, problems: { started: 'the server is starting' } };
const SILENT: ServerState = { isReady: false, problems: { serving: 'the server does not answer' } };
/** A server process that was not heard of for so long is not counted on. */
const SILENCE_MS = 2_500;

/** Hears of one server process. */
export interface ServerEvents {
  onMessage(server: ServerProcess, message: ServerMessage): void;
  /** Called once; `how` is for the log. */
  onExit(server: ServerProcess, how: string, code: number): void;
}

/** A server process. */
export class ServerProcess {
  readonly number: number;
  readonly startedAt = monotonicNow();
  readonly #worker: Worker;
  /** What it has told of its figures last. */
  figures: readonly Figure[] = [];
  /** Whether all its parts have started. */
  hasStarted = false;
  /** Whether it was told to end. */
  isEnding = false;
  /** Whether it was killed because it hung. */
  isHung = false;
  #state = STARTING;
  #heardAt: number | undefined;

  constructor(number: number, events: ServerEvents) {
    this.number = number;
    this.#worker = cluster.fork({ [NUMBER_VARIABLE]: String(number) });
    const closeHanded = closingHanded(this.#worker);
    this.#worker.on('message', (message: ServerMessage) => {
      this.#heardAt = monotonicNow();
      if (message.kind === 'state') this.#state = message.state;
      if (message.kind === 'started') this.hasStarted = true;
      events.onMessage(this, message);
    });
    this.#worker.on('error', () => {}); // 'exit' follows.
    this.#worker.once('exit', (code: number | null, signal: string | null) => {
      if (!this.isEnding) closeHanded();
      events.onExit(this, signal ?? `exit code ${code}`, code ?? 1);
    });
  }

  get pid(): number | undefined {
    return this.#worker.process.pid;
  }

  /** How it is doing; it is not counted on while it is silent. */
  get report(): ServerReport {
    const isSilent = this.#heardAt !== undefined && this.silentFor > SILENCE_MS;
    const { number, pid } = this;
    return { number, pid, ...(isSilent ? SILENT : this.#state) };
  }

  /** For how many milliseconds nothing was heard of it. */
  get silentFor(): number {
    return monotonicNow() - (this.#heardAt ?? this.startedAt);
  }

  /** Begins to count its silence from now: the supervisor itself may have been frozen. */
  forgive(): void {
    if (this.#heardAt !== undefined) this.#heardAt = monotonicNow();
  }

  tell(message: SupervisorMessage): void {
    // One that ends meanwhile says so by its end.
    if (this.#worker.isConnected()) this.#worker.process.send(message, () => {});
  }

  /** Has it end in order. */
  end(why: string): void {
    this.isEnding = true;
    this.tell({ kind: 'end', why });
  }

  kill(): void {
    this.#worker.process.kill('SIGKILL');
  }
}

interface Handed {
  close(): void;
}

/**
 * Returns what closes the connections last handed to a process. Node hands one connection of each
 * listener at a time to a process, and forgets it, open, when that process ends before it has taken
 * it. Closing one that was taken, or went elsewhere, changes nothing: this process has closed its
 * own end by then.
 */
function closingHanded({ process: child }: Worker): () => void {
  const handed = new Map<unknown, Handed>();
  const send = child.send.bind(child) as (...args: readonly unknown[]) => boolean;
  child.send = ((message: { readonly key?: unknown }, handle?: Handed, ...rest: unknown[]) => {
    if (typeof handle?.close === 'function') handed.set(message.key, handle);
    return send(message, handle, ...rest);
  }) as typeof child.send;
  return () => {
    for (const handle of handed.values()) handle.close();
  };
}
