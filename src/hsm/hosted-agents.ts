/**
 * Agents that a host of agents starts, which runs as another user (`agent-host.ts`), as the server
 * sees them.
 *
 * Invariants: an agent is lost once its host does not hold the control connection any more; its end
 * is reported after all that it has answered. A socket in a folder that others can change is not
 * used: anyone could answer there. Knows nothing of what is said on the stream.
 */
import { randomBytes } from 'node:crypto';
import { connect, type Socket } from 'node:net';
import type { AgentUse } from './agent-given.ts';
import {
  type AgentEnd,
  type AgentEvents,
  type AgentStarter,
  PIPES_MS,
  type StartedAgent,
} from './agent-starter.ts';
import { type HostLine, lineOf, lineReader, parseHostLine } from './host-protocol.ts';
import { requireGuardedSocket } from './host-socket.ts';

/** Returns what has agents started by the host that listens at this path. */
export function hostedAgents(path: string): AgentStarter {
  return { start: (use, events) => new HostedAgent(path, use, events) };
}

class HostedAgent implements StartedAgent {
  readonly #path: string;
  readonly #events: AgentEvents;
  #control: Socket | undefined;
  #stream: Socket | undefined;
  #pid: number | undefined;
  #failure = 'it closed the connection';
  #hasEnded = false;

  constructor(path: string, use: AgentUse, events: AgentEvents) {
    this.#path = path;
    this.#events = events;
    try {
      requireGuardedSocket(path);
      this.#ask(use);
    } catch (error) {
      setImmediate(() => this.#end({ notStarted: (error as Error).message }));
    }
  }

  get pid(): number | undefined {
    return this.#pid;
  }

  kill(): void {
    if (this.#pid === undefined) this.#control?.destroy();
    else if (this.#control?.writable) this.#control.write(lineOf({ kill: true }));
  }

  #ask(use: AgentUse): void {
    const ticket = randomBytes(16).toString('hex');
    const control = connect(this.#path);
    const stream = connect(this.#path);
    this.#control = control;
    this.#stream = stream;
    const failed = ({ message }: Error) => {
      this.#failure = message;
    };
    control.on('error', failed);
    stream.on('error', failed);
    const read = lineReader((line) => this.#told(parseHostLine(line), stream));
    control.on('data', (chunk) => {
      try {
        read(chunk);
      } catch (error) {
        control.destroy(error as Error);
      }
    });
    control.on('close', () => this.#leftAlone());
    // One connection without the other is of no use.
    stream.on('close', () => this.#pid === undefined && control.destroy());
    control.write(lineOf({ start: { ticket, use } }));
    stream.write(lineOf({ stream: ticket }));
  }

  #told(line: HostLine, stream: Socket): void {
    if (this.#hasEnded) return;
    if ('refused' in line) this.#end({ notStarted: line.refused });
    else if ('started' in line) {
      this.#pid = line.started.pid;
      this.#events.onStream(stream);
    } else {
      // What it answered last may still be on its way.
      const end = () => this.#end(line.ended);
      if (stream.closed) end();
      else stream.once('close', end);
      setTimeout(end, PIPES_MS).unref();
      // Only what is read to its end closes.
      this.#control?.removeAllListeners('close');
    }
  }

  #leftAlone(): void {
    const away = `the agent host at ${this.#path} went away: ${this.#failure}`;
    if (this.#pid !== undefined) this.#end({ lost: away });
    else
      this.#end({ notStarted: `cannot reach the agent host at ${this.#path}: ${this.#failure}` });
  }

  #end(how: AgentEnd): void {
    if (this.#hasEnded) return;
    this.#hasEnded = true;
    this.#control?.destroy();
    this.#stream?.destroy();
    this.#events.onEnd(how);
  }
}
