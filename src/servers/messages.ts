/**
 * What the supervisor and its server processes tell each other: plain values, a message each.
 *
 * Nothing of a call, a key or a credential is in any of them.
 */
import type { AlertId } from '../signals/alerts.ts';
import type { Figure } from '../signals/metrics/figures.ts';

/** How a server process is doing, by its conditions of being ready. */
export interface ServerState {
  readonly isReady: boolean;
  /** Problems by the condition's name. */
  readonly problems: Readonly<Record<string, string>>;
}

/** A server process, as the others see it. */
export interface ServerReport extends ServerState {
  readonly number: number;
  readonly pid: number | undefined;
}

/** Why server processes have ended: of their own accord, because they hung, or to be replaced. */
export type ServerExitCause = 'crashed' | 'hung' | 'replaced';

/** All server processes of one supervisor. */
export interface Overview {
  /** How many there are to be. */
  readonly configured: number;
  readonly servers: readonly ServerReport[];
  /** How many have ended while the service goes on. */
  readonly exits: Readonly<Record<ServerExitCause, number>>;
}

/** What a server process tells its supervisor. */
export type ServerMessage =
  /** Its event loop turns. */
  | { readonly kind: 'alive' }
  /** All its parts have started: the others can be started. */
  | { readonly kind: 'started' }
  | { readonly kind: 'state'; readonly state: ServerState }
  /** Asks for the figures of all. */
  | { readonly kind: 'ask'; readonly id: number }
  /** Its own figures, which were asked for. */
  | { readonly kind: 'figures'; readonly id: number; readonly figures: readonly Figure[] };

/** What a supervisor tells a server process. */
export type SupervisorMessage =
  | { readonly kind: 'end'; readonly why: string }
  | { readonly kind: 'reload' }
  | { readonly kind: 'overview'; readonly overview: Overview }
  /** Asks for the process' own figures. */
  | { readonly kind: 'tell'; readonly id: number }
  /** Has the figures of all, for the one that asked. */
  | {
      readonly kind: 'told';
      readonly id: number;
      readonly processes: readonly (readonly Figure[])[];
    }
  /** Has it raise an alert, which the supervisor itself could only log. */
  | {
      readonly kind: 'raise';
      readonly alert: AlertId;
      readonly subject: string;
      readonly fields: object;
    };
