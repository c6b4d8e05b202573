/**
 * Two tokens behind one face, while key versions move from one to the other: each operation goes to
 * the agents of the token whose root or seal key it names.
 *
 * Invariants: an operation over versions in two tokens is never tried by either, since to each
 * token the other's row would look corrupt; the next token's agents are opened when it is recorded,
 * and their failing never touches the current one's. Where there is one token its agents are used
 * without this. Doesn't know which setting means which token.
 */
import { KeywardError } from '../errors.ts';
import { type AnyId, idToBytes, type KeyId, type TenantId, type TokenId } from '../ids.ts';
import type { AgentLog } from './agent-pool.ts';
import type { AgentRuleReport } from './agent-rule.ts';
import type { HsmAgents } from './agents.ts';
import { rootKeyBytesOf } from './key-version.ts';
import type { OperationName, ReplyOf, RequestOf } from './protocol.ts';
import type { TokenObject, TokenReport } from './token-profile.ts';

/** Agents on one token, or a router over two. */
export type Agents = Pick<
  HsmAgents,
  'call' | 'forget' | 'forgetEpochs' | 'stop' | 'ready' | 'held' | 'lastFailure' | 'rule'
>;

/** A token and what is recorded of its objects. */
export interface RoutedToken {
  readonly tokenId: TokenId;
  readonly isCurrent: boolean;
  readonly objects: readonly TokenObject[];
}

/** The agents of one token. */
export interface TokenAgents {
  readonly isCurrent: boolean;
  readonly agents: HsmAgents;
}

interface TokenRouterOptions {
  readonly current: { readonly tokenId: TokenId; readonly agents: HsmAgents };
  /**
   * Agents for a token that is recorded beside the current one, not started; undefined where no
   * setting means it.
   */
  readonly openNext: (token: RoutedToken) => Promise<HsmAgents | undefined>;
  readonly log: AgentLog;
}

/** A token whose agents were refused is tried anew after so long. */
const REOPEN_MS = 2_000;

/** The root keys, as {@link rootKeyBytesOf} has them, seal or mask keys, that a request names. */
const NAMED_KEYS: {
  readonly [Name in OperationName]?: (request: RequestOf<Name>) => readonly string[];
} = {
  createKeyVersion: ({ rootKeyId }) => [nameOf(rootKeyId)],
  seal: ({ keyVersion }) => [rootKeyBytesOf(keyVersion)],
  open: ({ keyVersion }) => [rootKeyBytesOf(keyVersion)],
  issueDataKey: ({ keyVersion }) => [rootKeyBytesOf(keyVersion)],
  reseal: ({ keyVersion, sourceKeyVersion }) => [keyVersion, sourceKeyVersion].map(rootKeyBytesOf),
  sealAll: ({ keyVersion }) => [rootKeyBytesOf(keyVersion)],
  openAll: ({ keyVersion }) => [rootKeyBytesOf(keyVersion)],
  issueDataKeys: ({ keyVersion }) => [rootKeyBytesOf(keyVersion)],
  resealAll: ({ keyVersion, sourceKeyVersion }) =>
    [keyVersion, sourceKeyVersion].map(rootKeyBytesOf),
  rewrap: ({ keyVersion, sourceKeyVersions }) =>
    [keyVersion, ...sourceKeyVersions].map(rootKeyBytesOf),
  transfer: ({ items }) =>
    items.flatMap(({ rootKeyId, keyVersion }) => [nameOf(rootKeyId), rootKeyBytesOf(keyVersion)]),
  sealRecords: ({ sealKeyId }) => [nameOf(sealKeyId)],
  verifyRecords: ({ sealKeyId }) => [nameOf(sealKeyId)],
  resealRecords: ({ formerKeyId, sealKeyId }) => [formerKeyId, sealKeyId].map(nameOf),
  sealPolicyChange: ({ sealKeyId }) => [nameOf(sealKeyId)],
  sealRecordChange: ({ sealKeyId }) => [nameOf(sealKeyId)],
  nameTenant: ({ sealKeyId }) => [nameOf(sealKeyId)],
  decide: ({ sealKeyId, operationSealKeyId, passkeySealKeyId }) =>
    [sealKeyId, operationSealKeyId, passkeySealKeyId].map(nameOf),
  deriveWriterKey: ({ maskKeyId }) =>
    maskKeyId.length === 0 ? [] : [maskKeyId.toString('latin1')],
};

/** Routes each operation to the agents of the token that has its root or seal key. */
export class TokenRouter implements Agents {
  readonly #options: TokenRouterOptions;
  readonly #pools = new Map<TokenId, HsmAgents>();
  readonly #opening = new Set<TokenId>();
  /** By the bytes of a root, seal or mask key's UUID. */
  #tokenOf: ReadonlyMap<string, TokenId> = new Map();
  #tokens: readonly RoutedToken[] = [];
  #current: TokenId;
  #stopped = false;

  constructor(options: TokenRouterOptions) {
    this.#options = options;
    const { tokenId, agents } = options.current;
    this.#current = tokenId;
    this.#pools.set(tokenId, agents);
  }

  /** As the current token's agents do. */
  start(): Promise<TokenReport> {
    return this.#options.current.agents.start();
  }

  /** The agents of each token that is open. */
  get pools(): readonly TokenAgents[] {
    return [...this.#pools].map(([tokenId, agents]) => ({
      isCurrent: tokenId === this.#current,
      agents,
    }));
  }

  get ready(): boolean {
    return this.#pools.get(this.#current)?.ready ?? false;
  }

  /** As the current token's agents have it. */
  get lastFailure(): string {
    return this.#pools.get(this.#current)?.lastFailure ?? '';
  }

  /** As the current token's agents have it. */
  get rule(): AgentRuleReport | undefined {
    return this.#pools.get(this.#current)?.rule;
  }

  get held(): readonly AnyId[] {
    return [...this.#pools.values()].flatMap(({ held }) => held);
  }

  /**
   * As {@link HsmAgents.call}. Throws TOKEN_KEY_NOT_READY where versions are in two tokens, or in
   * one that isn't open here.
   */
  async call<Name extends OperationName>(
    name: Name,
    request: RequestOf<Name>,
    deadline: number,
  ): Promise<ReplyOf<Name>> {
    return this.#poolFor(name, request).call(name, request, deadline);
  }

  #poolFor<Name extends OperationName>(name: Name, request: RequestOf<Name>): HsmAgents {
    const named = NAMED_KEYS[name] as ((request: RequestOf<Name>) => readonly string[]) | undefined;
    // One that nobody has recorded is in a row that was tampered with: the token itself says so.
    const tokens = new Set(named?.(request).flatMap((key) => this.#tokenOf.get(key) ?? []));
    const [token = this.#current] = tokens;
    const pool = tokens.size > 1 ? undefined : this.#pools.get(token);
    if (pool === undefined) throw new KeywardError('TOKEN_KEY_NOT_READY');
    return pool;
  }

  /**
   * Has every agent use its token's objects from now on; opens a token that is recorded and wasn't.
   * As {@link HsmAgents.hold}.
   */
  async hold(tokens: readonly RoutedToken[]): Promise<void> {
    this.#tokens = tokens;
    this.#current = tokens.find(({ isCurrent }) => isCurrent)?.tokenId ?? this.#current;
    this.#tokenOf = new Map(
      tokens.flatMap(({ tokenId, objects }) =>
        objects
          .filter(({ role }) => role === 'root' || role === 'seal' || role === 'mask')
          .map(({ objectId }) => [nameOf(objectId), tokenId] as const),
      ),
    );
    const current = tokens.find(({ isCurrent }) => isCurrent);
    if (current !== undefined) await this.#holdIn(current);
    for (const token of tokens) {
      if (token === current) continue;
      // What it doesn't hold, it doesn't say that it holds: whoever moves key versions waits for
      // it.
      await this.#holdIn(token).catch((err: unknown) =>
        this.#options.log.warn({ err }, 'cannot look for the objects of another HSM token'),
      );
    }
  }

  async #holdIn(token: RoutedToken): Promise<void> {
    const pool = this.#pools.get(token.tokenId);
    if (pool !== undefined) await pool.hold(token.objects);
    else await this.#open(token);
  }

  /** Starts the token's agents, and doesn't wait for them: the token may be away for long. */
  async #open(token: RoutedToken): Promise<void> {
    const { tokenId } = token;
    if (this.#stopped || this.#opening.has(tokenId) || this.#pools.has(tokenId)) return;
    this.#opening.add(tokenId);
    try {
      const pool = await this.#options.openNext(token);
      if (pool === undefined || this.#stopped) return;
      this.#pools.set(tokenId, pool);
      pool.start().catch((error: unknown) => this.#refused(tokenId, pool, error));
    } finally {
      this.#opening.delete(tokenId);
    }
  }

  #refused(tokenId: TokenId, pool: HsmAgents, err: unknown): void {
    this.#options.log.error({ err }, 'cannot use the next HSM token');
    this.#pools.delete(tokenId);
    void pool.stop();
    const again = () => {
      const token = this.#tokens.find((each) => each.tokenId === tokenId);
      if (token !== undefined)
        this.#open(token).catch((error: unknown) =>
          this.#options.log.error({ err: error }, 'cannot open the next HSM token'),
        );
    };
    setTimeout(again, REOPEN_MS).unref();
  }

  async forget(ofId?: TenantId | KeyId): Promise<void> {
    await Promise.all([...this.#pools.values()].map((pool) => pool.forget(ofId)));
  }

  forgetEpochs(ofId?: TenantId | KeyId): void {
    for (const pool of this.#pools.values()) pool.forgetEpochs(ofId);
  }

  async stop(): Promise<void> {
    this.#stopped = true;
    await Promise.all([...this.#pools.values()].map((pool) => pool.stop()));
  }
}

function nameOf(id: AnyId): string {
  return idToBytes(id).toString('latin1');
}
