/**
 * The connections of servers to a host of agents: two for each agent that is wanted, brought
 * together by their ticket.
 *
 * Invariants: a connection that has not said what it is for, or waits for the other one, is closed
 * after a time; what does not keep to `host-protocol.ts` is closed at once. Starts nothing.
 */
import type { Socket } from 'node:net';
import type { AgentUse } from './agent-given.ts';
import { lineReader, parseServerLine } from './host-protocol.ts';

/** Both connections for an agent come at once. */
const PAIRING_MS = 5_000;

/** An agent that a server wants. */
export interface WantedAgent {
  /** Whoever closes it ends the agent. */
  readonly control: Socket;
  /** For the agent: nothing more is read of it here. */
  readonly stream: Socket;
  readonly use: AgentUse;
}

export interface HostConnectionsListener {
  onWanted(agent: WantedAgent): void;
  /** Its server wants it killed. */
  onKill(control: Socket): void;
  onNonsense(error: Error): void;
}

type Half = Pick<WantedAgent, 'control' | 'use'> | Pick<WantedAgent, 'stream'>;

/** Reads what connections are for. */
export class HostConnections {
  readonly #listener: HostConnectionsListener;
  readonly #open = new Set<Socket>();
  readonly #halves = new Map<string, { readonly half: Half; readonly settle: () => void }>();

  constructor(listener: HostConnectionsListener) {
    this.#listener = listener;
  }

  accept(socket: Socket): void {
    this.#open.add(socket);
    const impatience = setTimeout(() => socket.destroy(), PAIRING_MS);
    socket.on('error', () => {});
    socket.on('close', () => {
      clearTimeout(impatience);
      this.#open.delete(socket);
    });
    let hasSpoken = false;
    const take = (text: string, hasMore: boolean) => {
      const line = parseServerLine(text);
      if ('kill' in line) return this.#listener.onKill(socket);
      if (hasSpoken || hasMore) throw new Error('a connection that asks for more than one agent');
      hasSpoken = true;
      const settle = () => clearTimeout(impatience);
      if ('start' in line)
        return this.#pair(line.start.ticket, { control: socket, use: line.start.use }, settle);
      socket.off('data', onData);
      socket.pause();
      this.#pair(line.stream, { stream: socket }, settle);
    };
    const read = lineReader(take);
    const onData = (chunk: Buffer) => {
      try {
        read(chunk);
      } catch (error) {
        socket.destroy();
        this.#listener.onNonsense(error as Error);
      }
    };
    socket.on('data', onData);
  }

  /** Closes all of them. */
  close(): void {
    for (const socket of this.#open) socket.destroy();
  }

  #pair(ticket: string, half: Half, settle: () => void): void {
    const socket = 'control' in half ? half.control : half.stream;
    const first = this.#halves.get(ticket);
    if (first === undefined) {
      // Its time goes on until the other one is there.
      this.#halves.set(ticket, { half, settle });
      socket.once('close', () => {
        if (this.#halves.get(ticket)?.half === half) this.#halves.delete(ticket);
      });
      return;
    }
    this.#halves.delete(ticket);
    settle();
    first.settle();
    const other = first.half;
    if ('control' in half && 'stream' in other) this.#listener.onWanted({ ...half, ...other });
    else if ('stream' in half && 'control' in other) this.#listener.onWanted({ ...half, ...other });
    else throw new Error('a ticket that is used twice');
  }
}
