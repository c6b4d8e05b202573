/**
 * One server process' place under a supervisor: it reports that it is alive and how it is doing,
 * hears of the others, and ends when the supervisor says so or is gone.
 *
 * Knows nothing of what the process serves.
 */
import cluster from 'node:cluster';
import type { AlertId } from '../signals/alerts.ts';
import type { Figure } from '../signals/metrics/figures.ts';
import type {
  Overview,
  ServerMessage,
  ServerReport,
  ServerState,
  SupervisorMessage,
} from './messages.ts';

/** The variable by which a supervisor tells a server process its number. */
export const NUMBER_VARIABLE = 'KEYWARD_SERVER_NUMBER';

const ALIVE_MS = 500;
/** The supervisor waits for less. */
const ANSWER_MS = 5_000;

/** What a server process does when its supervisor tells it to. */
export interface MembershipEvents {
  end(why: string): void;
  reload(): void;
  raise(alert: AlertId, subject: string, fields: object): void;
  /** Returns the process' own figures. */
  figures(): Promise<readonly Figure[]>;
}

/** A server process under a supervisor. */
export class Membership {
  readonly number: number;
  readonly #asked = new Map<number, (processes: readonly (readonly Figure[])[]) => void>();
  #events: MembershipEvents | undefined;
  #overview: Overview | undefined;
  #state = '';
  #lastId = 0;

  /** Begins to report that the process is alive. */
  constructor(number: number) {
    this.number = number;
    setInterval(() => this.#send({ kind: 'alive' }), ALIVE_MS).unref();
    this.#send({ kind: 'alive' });
    process.on('message', (message) => this.#told(message as SupervisorMessage));
    const worker = cluster.worker;
    worker?.once('disconnect', () => {
      // Node would end the process at once, and with it the calls under way.
      worker.exitedAfterDisconnect = true;
      if (this.#events === undefined) process.exit(1);
      this.#events.end('the supervisor has ended');
    });
  }

  /** How all server processes are doing, as last heard; undefined until then. */
  get overview(): Overview | undefined {
    return this.#overview;
  }

  /** The server processes beside this one, as last heard. */
  get others(): readonly ServerReport[] {
    return this.#overview?.servers.filter(({ pid }) => pid !== process.pid) ?? [];
  }

  /** Has these done from now on. */
  follow(events: MembershipEvents): void {
    this.#events = events;
  }

  /** Says that all parts have started. */
  started(): void {
    this.#send({ kind: 'started' });
  }

  /** Says how this process is doing, if it has changed. */
  report(state: ServerState): void {
    const text = JSON.stringify(state);
    if (text === this.#state) return;
    this.#state = text;
    this.#send({ kind: 'state', state });
  }

  /** Returns the figures of all server processes, those that have ended too. */
  allFigures(): Promise<readonly (readonly Figure[])[]> {
    this.#lastId += 1;
    const id = this.#lastId;
    const { promise, resolve, reject } = Promise.withResolvers<readonly (readonly Figure[])[]>();
    const timer = setTimeout(() => {
      this.#asked.delete(id);
      reject(new Error('the supervisor did not answer'));
    }, ANSWER_MS).unref();
    this.#asked.set(id, (processes) => {
      clearTimeout(timer);
      resolve(processes);
    });
    this.#send({ kind: 'ask', id });
    return promise;
  }

  #told(message: SupervisorMessage): void {
    const events = this.#events;
    if (message.kind === 'overview') this.#overview = message.overview;
    else if (message.kind === 'told') {
      this.#asked.get(message.id)?.(message.processes);
      this.#asked.delete(message.id);
    } else if (message.kind === 'tell') {
      const { id } = message;
      const answer = (figures: readonly Figure[]) => this.#send({ kind: 'figures', id, figures });
      events?.figures().then(answer, () => answer([]));
    } else if (message.kind === 'end') {
      // What is not yet composed has nothing to end in order.
      if (events === undefined) process.exit(1);
      events.end(message.why);
    } else if (message.kind === 'reload') events?.reload();
    else events?.raise(message.alert, message.subject, message.fields);
  }

  #send(message: ServerMessage): void {
    // A supervisor that is gone is no error here: the end follows.
    if (process.connected) process.send?.(message, undefined, undefined, () => {});
  }
}

/** Returns this process' place under its supervisor; undefined where it has none. */
export function membershipOf(environment: NodeJS.ProcessEnv): Membership | undefined {
  const number = environment[NUMBER_VARIABLE];
  return cluster.isWorker && number !== undefined ? new Membership(Number(number)) : undefined;
}
