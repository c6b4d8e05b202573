/**
 * One agent process as the server sees it: its start, its stream, the calls that it hasn't
 * answered, its end.
 *
 * Invariants: every call that was sent is either answered or handed to `onExit`, oldest first,
 * exactly once; nothing that the child does or writes throws here; one that changes the token's
 * objects is not killed. The child gets an allow-listed environment, no debugger by signal, no core
 * dump. Doesn't decide whether an agent is started, killed, or a call given to another:
 * `agent-pool.ts` and `agents.ts` do.
 */
import { type ChildProcess, spawn } from 'node:child_process';
import type { Socket } from 'node:net';
import { fileURLToPath } from 'node:url';
import { monotonicNow } from '../call.ts';
import {
  EXIT_AFTER_FAILURE,
  frameReader,
  OPERATIONS,
  type OperationName,
  pagesOf,
  replyId,
} from './protocol.ts';

const MAIN = fileURLToPath(
  new URL(`./agent/main${import.meta.url.endsWith('.ts') ? '.ts' : '.js'}`, import.meta.url),
);
/**
 * How long what a dead agent has written is read on, should another process hold its pipes open.
 */
const PIPES_MS = 1_000;
/**
 * No debugger by signal; a small young generation, which halves the memory for some 3% of the rate
 * (measured).
 */
const NODE_FLAGS = ['--disable-sigusr1', '--max-semi-space-size=4'];
/** The longest piece of an agent's own output that is logged: libraries print there. */
const OUTPUT_LIMIT = 500;

/** A call on its way to an agent and back. */
export interface AgentCall {
  readonly name: OperationName;
  /** The request's frame under this id; made anew for each agent, and zeroed once written. */
  readonly encode: (requestId: number) => Buffer;
  /** How many agents it has been given to. */
  attempts: number;
  /** Only an agent that was started after this may do it, in monotonic milliseconds. */
  readonly startedAfter: number;
  /** Since when it has waited for an agent, once it has. */
  waitingSince?: number;
  /** Called with the reply's frame and who sent it. What it throws is the agent's fault. */
  readonly settle: (frame: Buffer, agent: AgentProcess) => void;
  readonly fail: (error: Error) => void;
}

interface AgentProcessOptions {
  /** The child's whole environment. */
  readonly environment: Readonly<Record<string, string>>;
  readonly onOutput: (text: string) => void;
  /** Called once: when it has ended, or has been killed. */
  readonly onExit: (exit: AgentExit) => void;
}

/**
 * Why a process ended: it reported a failure, was of no further use, was killed because it hung,
 * wrote what is no answer, could not be started, or ended for a reason of its own.
 */
export type ExitCause = 'failed' | 'dismissed' | 'hung' | 'malformed' | 'not-started' | 'crashed';

/** How a process ended. */
export interface AgentExit {
  readonly how: string;
  readonly cause: ExitCause;
  /** The call that it was working on, unless it ended having said of which it did. */
  readonly interrupted: AgentCall | undefined;
  /** The calls that it had not begun, oldest first. */
  readonly untouched: readonly AgentCall[];
}

/** Starts one agent process, sends it calls, and reports its end. */
export class AgentProcess {
  readonly startedAt = monotonicNow();
  readonly #options: AgentProcessOptions;
  /** Absent when the system would not even try. */
  readonly #child: ChildProcess | undefined;
  /** Absent when there was no descriptor left to make it of. */
  readonly #stream: Socket | undefined;
  readonly #unanswered = new Map<number, AgentCall>();
  #nextId = 1;
  #headSince = 0;
  #flushing = false;
  #ended = false;

  constructor(options: AgentProcessOptions) {
    this.#options = options;
    const failed = (error: Error) => {
      options.onOutput(error.message);
      if (this.pid === undefined)
        this.#end('not-started', 'it could not be started', this.#oldest());
    };
    try {
      this.#child = start(options.environment);
    } catch (error) {
      // Some failures Node throws (no memory, an environment too large), others it emits later.
      // Here all come later.
      setImmediate(failed, error as Error);
      return;
    }
    // Not once: a process that can't be killed says so each time.
    this.#child.on('error', failed);
    // Without a descriptor to spare there are no streams at all, and an error to come (measured).
    const { stdio = [] as unknown as ChildProcess['stdio'] } = this.#child;
    for (const output of [stdio[1], stdio[2]]) {
      output?.on('data', (chunk: Buffer) =>
        options.onOutput(chunk.toString('utf8').slice(0, OUTPUT_LIMIT)),
      );
      output?.on('error', ({ message }) => options.onOutput(message));
    }
    this.#stream = stdio[3] as Socket | undefined;
    const read = frameReader((frame) => this.#answered(frame));
    this.#stream?.on('data', (chunk: Buffer) => {
      try {
        if (!this.#ended) read(chunk);
      } catch (error) {
        this.#killFor('malformed', `it wrote a malformed frame (${(error as Error).message})`);
      }
    });
    this.#stream?.on('error', () => this.kill());
    const ended = (code: number | null, signal: NodeJS.Signals | null) => {
      const how = signal ?? `exit code ${code}`;
      if (code === EXIT_AFTER_FAILURE) this.#end('failed', how);
      else this.#end('crashed', how, this.#oldest());
    };
    this.#child.once('close', ended);
    // That event waits until nobody holds the pipes any more, and a process that a library left
    // behind may never end.
    this.#child.once('exit', (code, signal) => setTimeout(ended, PIPES_MS, code, signal).unref());
  }

  get pid(): number | undefined {
    return this.#child?.pid;
  }

  /** How many calls it hasn't answered. */
  get load(): number {
    return this.#unanswered.size;
  }

  /**
   * For how many milliseconds it has worked on its oldest call; 0 while that changes the token's
   * objects.
   */
  get workingFor(): number {
    return this.#unanswered.size === 0 || this.#changesToken ? 0 : monotonicNow() - this.#headSince;
  }

  /**
   * Sends a call; what is sent within one turn of the event loop is written at once. Throws
   * RangeError for one that fits no frame.
   */
  send(call: AgentCall): void {
    const requestId = this.#nextId;
    const frame = call.encode(requestId);
    this.#nextId = requestId === 0xffff_ffff ? 1 : requestId + 1;
    if (this.#unanswered.size === 0) this.#headSince = monotonicNow();
    this.#unanswered.set(requestId, call);
    call.attempts += 1;
    const stream = this.#stream;
    if (!this.#flushing) {
      this.#flushing = true;
      stream?.cork();
      // After all that came in with this turn of the event loop: a write for each call costs 60 µs
      // of 140 (measured).
      setImmediate(() => {
        this.#flushing = false;
        stream?.uncork();
      });
    }
    const pages = pagesOf(frame);
    const last = pages.pop();
    for (const page of pages) stream?.write(page);
    stream?.write(last ?? frame, () => frame.fill(0));
  }

  /** Ends it at once, its oldest call being the reason; unless that changes the token's objects. */
  kill(): void {
    this.#killFor('hung', 'it was killed');
  }

  /**
   * Ends it after an answer that says that it is of no more use: none of its other calls has been
   * begun.
   */
  dismiss(): void {
    this.#child?.kill('SIGKILL');
    this.#end('dismissed', 'it was of no further use');
  }

  /** Lets it finish what it has and end by itself. */
  end(): void {
    this.#stream?.end();
  }

  #killFor(cause: ExitCause, why: string): void {
    if (this.#changesToken) return;
    this.#child?.kill('SIGKILL');
    // Not only once it is gone: what the system can't end (a driver that hangs) is of no more use
    // either.
    this.#end(cause, why, this.#oldest());
  }

  #end(cause: ExitCause, how: string, interrupted?: AgentCall): void {
    if (this.#ended) return;
    this.#ended = true;
    this.#stream?.destroy();
    const untouched = [...this.#unanswered.values()].filter((call) => call !== interrupted);
    this.#unanswered.clear();
    this.#options.onExit({ cause, how, interrupted, untouched });
  }

  #oldest(): AgentCall | undefined {
    const [oldest] = this.#unanswered.values();
    return oldest;
  }

  get #changesToken(): boolean {
    const oldest = this.#oldest();
    return oldest !== undefined && OPERATIONS[oldest.name].changesToken;
  }

  #answered(frame: Buffer): void {
    if (this.#ended) return;
    const requestId = replyId(frame);
    const call = this.#unanswered.get(requestId);
    if (call === undefined) throw new RangeError('an answer to nothing');
    this.#headSince = monotonicNow();
    try {
      this.#unanswered.delete(requestId);
      call.settle(frame, this);
    } catch (error) {
      this.#child?.kill('SIGKILL');
      this.#unanswered.set(requestId, call);
      this.#end('malformed', `it sent a malformed answer (${(error as Error).message})`, call);
    }
  }
}

/** Throws what keeps the system from trying. */
function start(environment: Readonly<Record<string, string>>): ChildProcess {
  // The shell is there for its ulimit: Node can't set resource limits.
  return spawn(
    '/bin/sh',
    ['-c', 'ulimit -c 0; exec "$0" "$@"', process.execPath, ...NODE_FLAGS, MAIN],
    {
      env: { ...environment },
      stdio: ['ignore', 'pipe', 'pipe', 'pipe'],
    },
  );
}
