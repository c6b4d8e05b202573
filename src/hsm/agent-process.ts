/**
 * One agent process as the server sees it: its start, its stream, the calls that it hasn't answered, its end.
 *
 * Invariant: every call that was sent is either answered or handed to `onExit`, oldest first, exactly once. The child
 * gets an allow-listed environment, no debugger by signal, no core dump. Doesn't decide whether an agent is started,
 * killed, or a call given to another: `agents.ts` does.
 */
import { type ChildProcess, spawn } from 'node:child_process';
import type { Socket } from 'node:net';
import { fileURLToPath } from 'node:url';
import { monotonicNow } from '../call.ts';
import { EXIT_AFTER_FAILURE, frameReader, OPERATIONS, type OperationName, replyId } from './protocol.ts';

const MAIN = fileURLToPath(
  new URL(`./agent/main${import.meta.url.endsWith('.ts') ? '.ts' : '.js'}`, import.meta.url),
);
/** The longest piece of an agent's own output that is logged: libraries print there. */
const OUTPUT_LIMIT = 500;

/** A call on its way to an agent and back. */
export interface AgentCall {
  readonly name: OperationName;
  /** The request's frame under this id; made anew for each agent, and zeroed once written. */
  readonly encode: (requestId: number) => Buffer;
  /** How many agents it has been given to. */
  attempts: number;
  /** Called with the reply's frame, which is zeroed afterwards. */
  readonly settle: (frame: Buffer) => void;
  readonly fail: (error: Error) => void;
}

interface AgentProcessOptions {
  /** The child's whole environment. */
  readonly environment: Readonly<Record<string, string>>;
  readonly onOutput: (text: string) => void;
  readonly onExit: (exit: AgentExit) => void;
}

/** How a process ended. */
export interface AgentExit {
  readonly how: string;
  /** The call that it was working on, unless it ended by itself between two. */
  readonly interrupted: AgentCall | undefined;
  /** The calls that it had not begun, oldest first. */
  readonly untouched: readonly AgentCall[];
}

/** See this file's first paragraph. */
export class AgentProcess {
  readonly startedAt = monotonicNow();
  readonly #child: ChildProcess;
  readonly #stream: Socket;
  readonly #unanswered = new Map<number, AgentCall>();
  #nextId = 1;
  #headSince = 0;
  #flushing = false;

  constructor(options: AgentProcessOptions) {
    // The shell is there for its ulimit: Node can't set resource limits.
    this.#child = spawn(
      '/bin/sh',
      ['-c', 'ulimit -c 0; exec "$0" "$@"', process.execPath, '--disable-sigusr1', MAIN],
      { env: { ...options.environment }, stdio: ['ignore', 'pipe', 'pipe', 'pipe'] },
    );
    this.#stream = this.#child.stdio[3] as Socket;
    const read = frameReader((frame) => this.#answered(frame));
    this.#stream.on('data', read);
    this.#stream.on('error', () => this.kill());
    for (const output of [this.#child.stdout, this.#child.stderr]) {
      output?.on('data', (chunk: Buffer) => options.onOutput(chunk.toString('utf8').slice(0, OUTPUT_LIMIT)));
    }
    this.#child.once('close', (code, signal) => {
      this.#stream.destroy();
      const unanswered = [...this.#unanswered.values()];
      this.#unanswered.clear();
      const interrupted = code === EXIT_AFTER_FAILURE ? undefined : unanswered.shift();
      options.onExit({ how: signal ?? `exit code ${code}`, interrupted, untouched: unanswered });
    });
    this.#child.once('error', (error) => options.onOutput(error.message));
  }

  get pid(): number | undefined {
    return this.#child.pid;
  }

  /** How many calls it hasn't answered. */
  get load(): number {
    return this.#unanswered.size;
  }

  /** For how many milliseconds it has worked on its oldest call; 0 while that changes the token's objects. */
  get workingFor(): number {
    const [head] = this.#unanswered.values();
    return head === undefined || OPERATIONS[head.name].changesToken ? 0 : monotonicNow() - this.#headSince;
  }

  /** Sends a call; what is sent within one tick is written at once. */
  send(call: AgentCall): void {
    const requestId = this.#nextId;
    this.#nextId = requestId === 0xffff_ffff ? 1 : requestId + 1;
    if (this.#unanswered.size === 0) this.#headSince = monotonicNow();
    this.#unanswered.set(requestId, call);
    call.attempts += 1;
    if (!this.#flushing) {
      this.#flushing = true;
      this.#stream.cork();
      process.nextTick(() => {
        this.#flushing = false;
        this.#stream.uncork();
      });
    }
    const frame = call.encode(requestId);
    this.#stream.write(frame, () => frame.fill(0));
  }

  /** Ends it at once. */
  kill(): void {
    this.#child.kill('SIGKILL');
  }

  /** Lets it finish what it has and end by itself. */
  end(): void {
    this.#stream.end();
  }

  #answered(frame: Buffer): void {
    const requestId = replyId(frame);
    const call = this.#unanswered.get(requestId);
    this.#unanswered.delete(requestId);
    this.#headSince = monotonicNow();
    call?.settle(frame);
  }
}
