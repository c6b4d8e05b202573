/**
 * One agent process as the server sees it: its start, its stream, the calls that it hasn't
 * answered, its end.
 *
 * Invariants: every call that was sent is either answered or handed to `onExit`, oldest first,
 * exactly once; nothing that the agent does or writes throws here; one that changes the token's
 * objects is not killed. Doesn't know whose child it is (`agent-starter.ts`), nor decide whether an
 * agent is started, killed, or a call given to another: `agent-pool.ts` and `agents.ts` do.
 */
import type { Socket } from 'node:net';
import { monotonicNow } from '../call.ts';
import type { AgentUse } from './agent-given.ts';
import type { AgentEnd, AgentStarter, StartedAgent } from './agent-starter.ts';
import {
  EXIT_AFTER_FAILURE,
  frameReader,
  OPERATIONS,
  type OperationName,
  pagesOf,
  replyId,
} from './protocol.ts';

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
  readonly starter: AgentStarter;
  readonly use: AgentUse;
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
  readonly #agent: StartedAgent;
  /** Absent until it runs; for ever where there was no descriptor left to make it of. */
  #stream: Socket | undefined;
  /** Frames that wait for the stream. */
  readonly #early: Buffer[] = [];
  readonly #unanswered = new Map<number, AgentCall>();
  #nextId = 1;
  #headSince = 0;
  #flushing = false;
  #ended = false;

  constructor(options: AgentProcessOptions) {
    this.#options = options;
    this.#agent = options.starter.start(options.use, {
      onStream: (stream) => this.#attach(stream),
      onOutput: options.onOutput,
      onEnd: (end) => this.#left(end),
    });
  }

  #attach(stream: Socket): void {
    const read = frameReader((frame) => this.#answered(frame));
    stream.on('data', (chunk: Buffer) => {
      try {
        if (!this.#ended) read(chunk);
      } catch (error) {
        this.#killFor('malformed', `it wrote a malformed frame (${(error as Error).message})`);
      }
    });
    // How it ended, its end says.
    stream.on('error', () => {
      if (!this.#changesToken) this.#agent.kill();
    });
    this.#stream = stream;
    if (this.#ended) stream.destroy();
    for (const frame of this.#early.splice(0)) this.#write(stream, frame);
  }

  #left(end: AgentEnd): void {
    if ('notStarted' in end)
      this.#end('not-started', `it could not be started: ${end.notStarted}`, this.#oldest());
    else if ('lost' in end) this.#end('crashed', end.lost, this.#oldest());
    else if (end.code === EXIT_AFTER_FAILURE) this.#end('failed', `exit code ${end.code}`);
    else this.#end('crashed', end.signal ?? `exit code ${end.code}`, this.#oldest());
  }

  get pid(): number | undefined {
    return this.#agent.pid;
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
    if (this.#stream === undefined) this.#early.push(frame);
    else this.#write(this.#stream, frame);
  }

  #write(stream: Socket, frame: Buffer): void {
    if (!this.#flushing) {
      this.#flushing = true;
      stream.cork();
      // After all that came in with this turn of the event loop: a write for each call costs 60 µs
      // of 140 (measured).
      setImmediate(() => {
        this.#flushing = false;
        stream.uncork();
      });
    }
    const pages = pagesOf(frame);
    const last = pages.pop();
    for (const page of pages) stream.write(page);
    stream.write(last ?? frame, () => frame.fill(0));
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
    this.#agent.kill();
    this.#end('dismissed', 'it was of no further use');
  }

  /** Lets it finish what it has and end by itself; what does not run yet has nothing. */
  end(): void {
    if (this.#stream === undefined) this.dismiss();
    else this.#stream.end();
  }

  #killFor(cause: ExitCause, why: string): void {
    if (this.#changesToken) return;
    this.#agent.kill();
    // Not only once it is gone: what the system can't end (a driver that hangs) is of no more use
    // either.
    this.#end(cause, why, this.#oldest());
  }

  #end(cause: ExitCause, how: string, interrupted?: AgentCall): void {
    if (this.#ended) return;
    this.#ended = true;
    this.#stream?.destroy();
    for (const frame of this.#early.splice(0)) frame.fill(0);
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
      this.#agent.kill();
      this.#unanswered.set(requestId, call);
      this.#end('malformed', `it sent a malformed answer (${(error as Error).message})`, call);
    }
  }
}
