/**
 * The tokens that this replica serves from: one, or two while key versions move from one to the
 * other.
 *
 * Owns which settings mean which recorded token, and that a replica never serves from a token that
 * isn't the current one alone. With one token its agents are handed out as they are. Moves nothing:
 * `token-migration.ts` does.
 */
import { setTimeout as delay } from 'node:timers/promises';
import { monotonicNow, type Warrant } from '../../call.ts';
import { type AgentLog, TokenRefused } from '../../hsm/agent-pool.ts';
import type { AgentStarter } from '../../hsm/agent-starter.ts';
import type { HsmAgents } from '../../hsm/agents.ts';
import { PinFile } from '../../hsm/pin-file.ts';
import {
  type CreateSettings,
  encodeWarrant,
  type KeepSettings,
  type ServeSettings,
} from '../../hsm/protocol.ts';
import type {
  TokenIdentity,
  TokenObject,
  TokenProfile,
  TokenReport,
} from '../../hsm/token-profile.ts';
import {
  type Agents,
  type RoutedToken,
  type TokenAgents,
  TokenRouter,
} from '../../hsm/token-router.ts';
import type { TokenId } from '../../ids.ts';
import type { EnvironmentRecord } from '../../store/environment.ts';
import { listTokenObjects, type TokenObjectRecord } from '../../store/hsm-token/token-objects.ts';
import { listTokens, type TokenRecord } from '../../store/hsm-token/tokens.ts';
import type { Store } from '../../store/store.ts';
import { tokenObjectsOf } from './token-objects.ts';

const READ_MS = 5_000;
/** Which token is meant can't be told while it is away. */
const IDENTIFY_AGAIN_MS = 1_000;

type PoolSettings = Omit<ServeSettings, 'despiteFailedTry'>;
/** How a token that was opened is spoken to, and by agents of whose starting. */
interface Opened {
  readonly starter: AgentStarter;
  readonly settings: PoolSettings;
}

export interface ServingTokensParts {
  readonly store: Store;
  /** As read at the start. */
  readonly environment: EnvironmentRecord;
  /** What starts agents on the token to serve from, and on the one that key versions move to. */
  readonly current: AgentStarter;
  readonly next: AgentStarter | undefined;
  readonly keyCacheSize: number;
  /** As {@link ServeSettings} has it. */
  readonly heedsKeptCheckpoint: boolean;
  readonly openPool: (
    starter: AgentStarter,
    settings: PoolSettings,
    /** As {@link HsmAgents} wants it. */
    reread: () => Promise<readonly TokenObject[]>,
  ) => HsmAgents;
  readonly identify: (starter: AgentStarter) => Promise<TokenIdentity>;
  readonly createKey: (settings: CreateSettings, starter: AgentStarter) => Promise<void>;
  readonly keepCheckpoint: (settings: KeepSettings, starter: AgentStarter) => Promise<void>;
  /**
   * Hears, in words for operators, that the token isn't the current one any more: nothing can be
   * served from it.
   */
  readonly onMisplaced: (why: string) => void;
  readonly log: AgentLog;
}

/** Opens the tokens that this replica serves from: one, or two during a move. */
export class ServingTokens {
  readonly #parts: ServingTokensParts;
  /** Each token that was opened. */
  readonly #opened = new Map<TokenId, Opened>();
  readonly #only: HsmAgents | undefined;
  readonly #router: TokenRouter | undefined;
  /** What came of their PINs when a checkpoint was to be kept. */
  readonly #pins = new Map<TokenId, PinFile>();

  private constructor(
    parts: ServingTokensParts,
    served: AgentStarter,
    next: AgentStarter | undefined,
  ) {
    this.#parts = parts;
    const { environment, log } = parts;
    const { currentToken, tokenProfile, tokenObjects } = environment;
    const { tokenId } = currentToken;
    const pool = this.#openPool(
      tokenId,
      this.#remember(tokenId, served, tokenProfile, tokenObjects),
    );
    if (next === undefined) this.#only = pool;
    else
      this.#router = new TokenRouter({
        current: { tokenId, agents: pool },
        openNext: (token) => this.#openNext(token, next),
        log,
      });
  }

  /** Finds out which settings mean the current token. Opens nothing yet. */
  static async prepare(parts: ServingTokensParts): Promise<ServingTokens> {
    const { current, next, environment } = parts;
    const { tokens } = environment;
    const mayHaveMoved =
      tokens.some(({ state }) => state === 'FORMER') &&
      !tokens.some(({ state }) => state === 'NEXT');
    if (next === undefined || !mayHaveMoved) return new ServingTokens(parts, current, next);
    const means = (token: TokenIdentity) =>
      token.label === environment.currentToken.label &&
      token.serialNumber === environment.currentToken.serialNumber;
    // Once key versions have moved, the one to move to is the only one that is needed.
    if (means(await identified(parts, next))) return new ServingTokens(parts, next, undefined);
    return new ServingTokens(parts, current, next);
  }

  get agents(): Agents {
    const agents = this.#router ?? this.#only;
    if (agents === undefined) throw new Error('cannot call the HSM: this replica has no agents');
    return agents;
  }

  /** The agents of each token that is open. */
  get pools(): readonly TokenAgents[] {
    if (this.#router !== undefined) return this.#router.pools;
    return this.#only === undefined ? [] : [{ isCurrent: true, agents: this.#only }];
  }

  /** Throws {@link TokenRefused}, saying which token is current where there are several. */
  async start(): Promise<TokenReport> {
    const starting = this.#router?.start() ?? this.#only?.start();
    if (starting === undefined) throw new Error('cannot call the HSM: this replica has no agents');
    return starting.catch((error: unknown) => {
      const { currentToken, tokens } = this.#parts.environment;
      if (!(error instanceof TokenRefused) || tokens.length === 1) throw error;
      throw new TokenRefused(
        `${error.message}; the current token is ${tokenInWords(currentToken)}`,
      );
    });
  }

  /** Has all agents use what is recorded of their tokens. Throws HSM_UNAVAILABLE. */
  async hold(records: readonly TokenObjectRecord[]): Promise<void> {
    if (this.#router !== undefined) return this.#router.hold(routed(records));
    const [tokenId] = this.#opened.keys();
    const own = records.filter((record) => record.tokenId === tokenId);
    if (own[0] !== undefined && own[0].tokenState !== 'CURRENT')
      this.#parts.onMisplaced(
        'key versions have moved to an HSM token that KEYWARD_HSM_* does not name',
      );
    await this.#only?.hold(tokenObjectsOf(own));
  }

  /**
   * Makes a recorded key in the token that it is recorded for. Rejects when it wasn't made, or
   * nobody knows; throws AGENT_RULE_NOT_MET.
   */
  async makeTokenKey({ role, objectId }: TokenObject, warrant: Warrant | undefined): Promise<void> {
    const [only] = this.#opened.values();
    const opened = this.#opened.size === 1 ? only : await this.#openedFor(objectId);
    if (opened === undefined)
      throw new Error('cannot make the key: its token is not open in this replica');
    const shown = warrant === undefined ? {} : { warrant: encodeWarrant(warrant) };
    const settings = { ...opened.settings, role, objectId, ...shown };
    await this.#parts.createKey(settings, opened.starter);
  }

  /**
   * Has the current token keep a checkpoint. Rejects when it doesn't, or nobody knows; a PIN that
   * was rejected isn't tried again before its file changes.
   */
  async keepCheckpoint(note: string): Promise<void> {
    const records = await listTokenObjects(this.#parts.store, soon());
    const signing = records.filter(
      ({ role, tokenState }) => role === 'audit-signing' && tokenState === 'CURRENT',
    );
    const tokenId = signing[0]?.tokenId;
    const opened = tokenId && this.#opened.get(tokenId);
    const pin = tokenId && this.#pins.get(tokenId);
    if (opened === undefined || pin === undefined)
      throw new Error('cannot keep the checkpoint: the current token is not open in this replica');
    pin.look();
    if (pin.isRejected)
      throw new Error(
        'cannot keep the checkpoint: the token has rejected the PIN in its file; correct the file',
      );
    const { stamp, hasChanged: despiteFailedTry } = pin;
    const objects = tokenObjectsOf(signing);
    try {
      const settings = { ...opened.settings, objects, note, despiteFailedTry };
      await this.#parts.keepCheckpoint(settings, opened.starter);
      pin.accept(stamp);
    } catch (error) {
      if (error instanceof TokenRefused && error.isPinRejected) pin.reject(stamp);
      throw error;
    }
  }

  async #openedFor(objectId: string): Promise<Opened | undefined> {
    const records = await listTokenObjects(this.#parts.store, soon());
    const record = records.find((each) => each.objectId === objectId);
    return record && this.#opened.get(record.tokenId);
  }

  async #openNext(
    { tokenId, objects }: RoutedToken,
    next: AgentStarter,
  ): Promise<HsmAgents | undefined> {
    const tokens = await listTokens(this.#parts.store, soon());
    const token = tokens.find((each) => each.tokenId === tokenId);
    if (token === undefined || token.state === 'FORMER') return undefined;
    const { starter, settings } = this.#remember(tokenId, next, token.profile, []);
    return this.#openPool(tokenId, { starter, settings: { ...settings, objects } });
  }

  #openPool(tokenId: TokenId, { starter, settings }: Opened): HsmAgents {
    return this.#parts.openPool(starter, settings, async () => {
      const records = await listTokenObjects(this.#parts.store, soon());
      return tokenObjectsOf(records.filter((each) => each.tokenId === tokenId));
    });
  }

  #remember(
    tokenId: TokenId,
    starter: AgentStarter,
    profile: unknown,
    records: readonly TokenObjectRecord[],
  ): Opened {
    const { environment, keyCacheSize, heedsKeptCheckpoint } = this.#parts;
    const { environmentId } = environment;
    const objects = tokenObjectsOf(records);
    const settings = {
      environmentId,
      profile: profile as TokenProfile,
      objects,
      keyCacheSize,
      heedsKeptCheckpoint,
    };
    const opened = { starter, settings };
    this.#opened.set(tokenId, opened);
    // One that is opened again is the same file, and its tries are spent.
    this.#pins.set(tokenId, this.#pins.get(tokenId) ?? new PinFile(starter.pinFile));
    return opened;
  }
}

/** A token as operators know it. */
export function tokenInWords({
  label,
  serialNumber,
}: Pick<TokenRecord, 'label' | 'serialNumber'>): string {
  return label === null
    ? 'without a recorded name'
    : `${JSON.stringify(label)} (serial ${serialNumber})`;
}

async function identified(
  { identify, log }: ServingTokensParts,
  starter: AgentStarter,
): Promise<TokenIdentity> {
  for (;;) {
    try {
      return await identify(starter);
    } catch (err) {
      log.error({ err }, 'cannot identify the next token; trying again');
      await delay(IDENTIFY_AGAIN_MS);
    }
  }
}

/** Records by their token. */
function routed(records: readonly TokenObjectRecord[]): RoutedToken[] {
  const byToken = Map.groupBy(records, ({ tokenId }) => tokenId);
  return [...byToken].map(([tokenId, own]) => ({
    tokenId,
    isCurrent: own[0]?.tokenState === 'CURRENT',
    objects: tokenObjectsOf(own),
  }));
}

function soon(): { readonly deadline: number } {
  return { deadline: monotonicNow() + READ_MS };
}
