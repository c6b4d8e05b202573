/**
 * The host of agents: a process of another user than the servers', which alone knows what opens the
 * token, and starts an agent for each server that asks for one.
 *
 * Invariants: what a server says decides whether an agent runs, never what it loads or reads; there
 * are never more agents than the limit; one logs in before others do, unless the PIN was accepted
 * before, and after a wrong PIN none is started until its file changes, whichever servers ask; an
 * agent that no server holds any more ends, and is killed if it hangs, unless it may be changing
 * token objects. Reads nothing of what servers and agents say to each other.
 */
import type { ChildProcess } from 'node:child_process';
import { createServer, type Server, type Socket } from 'node:net';
import {
  agentVariables,
  type PinReport,
  REPORT_DESCRIPTOR,
  type TokenSettings,
} from './agent-given.ts';
import type { AgentLog } from './agent-pool.ts';
import { type AgentEnd, followChild, spawnAgent } from './agent-starter.ts';
import { HostConnections, type WantedAgent } from './host-connections.ts';
import { type HostLine, lineOf, lineReader } from './host-protocol.ts';
import { listenAt } from './host-socket.ts';
import { PinFile } from './pin-file.ts';

/** An agent that no server holds any more ends by itself within this time, unless it hangs. */
const ABANDONED_MS = 5_000;
/** Connections beside those of agents. */
const SPARE_CONNECTIONS = 64;

export interface AgentHostOptions {
  /** Of the socket. */
  readonly path: string;
  readonly token: TokenSettings;
  /** Variables that go to the agents, besides what they are given. */
  readonly passed: Readonly<Record<string, string>>;
  readonly maxAgents: number;
  readonly log: AgentLog;
}

/** Starts agents for servers. */
export class AgentHost {
  readonly #options: AgentHostOptions;
  readonly #server: Server;
  readonly #connections: HostConnections;
  readonly #pin: PinFile;
  readonly #waiting = new Set<WantedAgent>();
  /** The one of which it isn't known yet whether its PIN is accepted. */
  #first: WantedAgent | undefined;
  /** By the control connection. */
  readonly #agents = new Map<Socket, ChildProcess>();
  #closed: PromiseWithResolvers<void> | undefined;

  constructor(options: AgentHostOptions) {
    this.#options = options;
    this.#pin = new PinFile(options.token.pinFile);
    this.#connections = new HostConnections({
      onWanted: (wanted) => this.#want(wanted),
      onKill: (control) => this.#kill(control),
      onNonsense: ({ message: why }) =>
        options.log.warn({ why }, 'closed a connection that does not speak as a server does'),
    });
    this.#server = createServer((socket) => this.#connections.accept(socket));
    this.#server.maxConnections = options.maxAgents + SPARE_CONNECTIONS;
  }

  /** Throws Error, in words for operators, where it cannot listen. */
  async listen(): Promise<void> {
    await listenAt(this.#server, this.#options.path);
    this.#server.on('error', (err) =>
      this.#options.log.error({ err }, 'cannot accept a connection'),
    );
  }

  /** Starts none any more, and lets go of all agents, which then end; returns once they have. */
  async close(): Promise<void> {
    this.#closed ??= Promise.withResolvers();
    this.#server.close();
    this.#connections.close();
    this.#resolveWhenEmpty();
    await this.#closed.promise;
  }

  #want(wanted: WantedAgent): void {
    const { control, stream } = wanted;
    control.once('close', () => this.#abandon(wanted));
    stream.once('close', () => this.#waiting.has(wanted) && control.destroy());
    const { maxAgents } = this.#options;
    if (this.#closed !== undefined) refuse(wanted, 'the agent host is ending');
    else if (this.#agents.size + this.#waiting.size >= maxAgents) {
      this.#options.log.warn({ maxAgents }, 'refused an HSM agent: there are as many as may be');
      refuse(wanted, `KEYWARD_AGENT_HOST_AGENTS allows no more than ${maxAgents} agents`);
    } else {
      this.#waiting.add(wanted);
      this.#startWaiting();
    }
  }

  /** Starts those that wait, or one where it is to log in first. */
  #startWaiting(): void {
    for (const wanted of this.#waiting) {
      this.#pin.look();
      if (this.#first !== undefined && !this.#pin.isAccepted) return;
      this.#waiting.delete(wanted);
      if (this.#pin.isRejected)
        refuse(
          wanted,
          `the token does not accept the PIN in ${this.#options.token.pinFile}, and none is tried ` +
            'until that file changes',
        );
      else this.#start(wanted);
    }
  }

  #start(wanted: WantedAgent): void {
    const { token, passed, log } = this.#options;
    const { control, stream, use } = wanted;
    const { stamp, hasChanged: despiteFailedTry } = this.#pin;
    if (!this.#pin.isAccepted) this.#first = wanted;
    const environment = agentVariables({ token, hosted: { use, despiteFailedTry } }, passed);
    let child: ChildProcess;
    try {
      child = spawnAgent(environment, ['ignore', 'pipe', 'pipe', stream, 'pipe']);
    } catch (error) {
      this.#ended(wanted, { notStarted: (error as Error).message });
      return;
    }
    // Its own end of it stays open.
    stream.destroy();
    this.#agents.set(control, child);
    followChild(child, {
      onOutput: (output) => log.warn({ pid: child.pid, output }, 'HSM agent printed'),
      onEnd: (end) => this.#ended(wanted, end, child.pid),
    });
    const read = lineReader((report) => this.#heard(wanted, report as PinReport, stamp));
    const reports = child.stdio?.[REPORT_DESCRIPTOR] as Socket | undefined;
    reports?.on('data', read);
    reports?.on('error', () => {});
    const { pid } = child;
    if (pid === undefined) return;
    log.info({ pid, use }, 'started an HSM agent');
    write(control, { started: { pid } });
  }

  #heard(wanted: WantedAgent, report: PinReport, stamp: string): void {
    if (report === 'accepted') this.#pin.accept(stamp);
    if (report === 'doubted') this.#pin.doubt(stamp);
    if (report === 'rejected') {
      this.#pin.reject(stamp);
      const { pinFile } = this.#options.token;
      this.#options.log.error({ pinFile }, 'the token does not accept the PIN; correct the file');
    }
    this.#settle(wanted);
  }

  /** Nothing more is to be learned of the PIN from this one. */
  #settle(wanted: WantedAgent): void {
    if (this.#first === wanted) this.#first = undefined;
    this.#startWaiting();
  }

  #ended(wanted: WantedAgent, end: AgentEnd, pid?: number): void {
    const { control } = wanted;
    this.#agents.delete(control);
    if ('code' in end) {
      this.#options.log.info({ pid, how: end.signal ?? end.code }, 'HSM agent ended');
      write(control, { ended: end });
      control.end();
    } else refuse(wanted, `the agent host cannot start an agent: ${Object.values(end).join()}`);
    this.#settle(wanted);
    this.#resolveWhenEmpty();
  }

  #kill(control: Socket): void {
    const child = this.#agents.get(control);
    if (child === undefined) control.destroy();
    else child.kill('SIGKILL');
  }

  /** Its server has gone, or this process is ending. */
  #abandon(wanted: WantedAgent): void {
    const { control, stream, use } = wanted;
    this.#waiting.delete(wanted);
    stream.destroy();
    const child = this.#agents.get(control);
    if (child === undefined || use === 'command') return;
    const impatience = setTimeout(() => {
      this.#options.log.warn({ pid: child.pid }, 'HSM agent hangs without a server; killing it');
      child.kill('SIGKILL');
    }, ABANDONED_MS);
    child.once('exit', () => clearTimeout(impatience));
  }

  #resolveWhenEmpty(): void {
    if (this.#agents.size === 0) this.#closed?.resolve();
  }
}

function refuse({ control, stream }: WantedAgent, why: string): void {
  write(control, { refused: why });
  control.end();
  stream.destroy();
}

function write(control: Socket, line: HostLine): void {
  if (control.writable) control.write(lineOf(line));
}
