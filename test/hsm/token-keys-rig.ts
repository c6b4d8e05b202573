/**
 * An environment in a token of its own, and agents over it: what tests of a token key's life stand
 * on.
 *
 * Keeps the record of the token's objects, as the database does, and speaks to agents as the server
 * does. Knows no module and no test.
 */
import assert from 'node:assert/strict';
import { monotonicNow } from '../../src/call.ts';
import type { TokenSettings } from '../../src/hsm/agent-given.ts';
import { type AgentStarter, childAgents } from '../../src/hsm/agent-starter.ts';
import { HsmAgents, type HsmAgentsOptions } from '../../src/hsm/agents.ts';
import { NO_SUBJECT, PURPOSE } from '../../src/hsm/ciphertext.ts';
import { decode, encode } from '../../src/hsm/codec.ts';
import { ALGORITHM, type SealedKeyVersion, sealedKeyVersion } from '../../src/hsm/key-version.ts';
import type { ServeSettings } from '../../src/hsm/protocol.ts';
import {
  createTokenKey,
  destroyTokenKeys,
  initializeToken,
  inspectToken,
} from '../../src/hsm/token-commands.ts';
import type {
  TokenObject,
  TokenObjectRole,
  TokenPosture,
  TokenReport,
} from '../../src/hsm/token-profile.ts';
import {
  type AnyId,
  type EnvironmentId,
  type KeyId,
  newId,
  type RootKeyId,
  type SealKeyId,
  type TenantId,
} from '../../src/ids.ts';
import { alertsTo } from '../support/alerts.ts';
import { eventually } from '../support/kit.ts';

/** A token that has a user PIN and no object of ours yet. */
export interface FreshToken {
  readonly settings: TokenSettings;
  readonly environment: Readonly<Record<string, string>>;
  dispose(): void;
}

/** What starts agents on the token. */
export function agentsOn({ settings, environment }: FreshToken): AgentStarter {
  return childAgents(settings, environment);
}

/** What key versions are wrapped and sealed by. */
export interface Keys {
  readonly rootKeyId: RootKeyId;
  readonly sealKeyId: SealKeyId;
}

/** A line of the agents' log. */
export interface LogLine {
  readonly level: 'info' | 'warn' | 'error';
  readonly message: string;
  readonly [field: string]: unknown;
}

/** All that key versions need of agents. */
type Calls = Pick<HsmAgents, 'call'>;
type Settings = Omit<ServeSettings, 'despiteFailedTry'>;
type StartOptions = Partial<Omit<HsmAgentsOptions, 'settings'>> & {
  /** What the agents are told of; by default what is recorded. */
  readonly objects?: readonly TokenObject[];
};

const DIGEST = Buffer.alloc(32, 7);
const soon = () => monotonicNow() + 120_000;

/** The token, what is recorded of it, and the agents that run over it. */
export class TokenKeysRig {
  readonly token: FreshToken;
  readonly starter: AgentStarter;
  readonly settings: Settings;
  /** Every object that was made: those of the beginning must be there, the others are expected. */
  readonly objects: TokenObject[];
  /** What agents have logged since the last `start`. */
  readonly log: LogLine[] = [];
  /** Hears of each line as it is written. */
  onLine: (line: LogLine) => void = () => {};
  readonly #running = new Set<HsmAgents>();

  private constructor(token: FreshToken, settings: Settings) {
    this.token = token;
    this.starter = agentsOn(token);
    this.settings = settings;
    this.objects = [...settings.objects];
  }

  /** Makes an environment in the token. */
  static async open(token: FreshToken): Promise<TokenKeysRig> {
    const environmentId = newId<EnvironmentId>();
    const made = await initializeToken({ environmentId }, agentsOn(token));
    return new TokenKeysRig(token, { environmentId, ...made, keyCacheSize: 4 });
  }

  /** An environment that was made in the token. */
  static over(token: FreshToken, settings: Settings): TokenKeysRig {
    return new TokenKeysRig(token, settings);
  }

  /** The root and seal key of the beginning. */
  get keys(): Keys {
    return keysOf(this.first('root'), this.first('seal'));
  }

  /** The object of the beginning with this role. */
  first(role: TokenObjectRole): TokenObject {
    const object = this.objects.find((each) => each.role === role);
    assert.ok(object);
    return object;
  }

  /** Makes a key, and records it as expected. */
  async make(role: 'root' | 'seal', objectId = newId<AnyId>()): Promise<TokenObject> {
    const object: TokenObject = { role, objectId, presence: 'expected' };
    await createTokenKey({ ...this.settings, role, objectId }, this.starter);
    this.objects.push(object);
    return object;
  }

  /** The number of objects that were destroyed. */
  destroy(...objects: readonly TokenObject[]): Promise<number> {
    return destroyTokenKeys({ ...this.settings, objects }, this.starter);
  }

  /** The record, with these objects of this presence. */
  recorded(
    presence: NonNullable<TokenObject['presence']>,
    ...changed: readonly TokenObject[]
  ): TokenObject[] {
    const ids = new Set(changed.map(({ objectId }) => objectId));
    return this.objects.map((object) =>
      ids.has(object.objectId) ? { ...object, presence } : object,
    );
  }

  /** The record from now on. */
  record(objects: readonly TokenObject[]): void {
    this.objects.splice(0, this.objects.length, ...objects);
  }

  inspect(): Promise<TokenPosture> {
    return inspectToken({ ...this.settings, objects: this.objects }, this.starter);
  }

  /** Agents that are started by the test itself. */
  agents({ objects = this.objects, ...options }: StartOptions = {}): HsmAgents {
    this.log.length = 0;
    const write = (level: LogLine['level']) => (fields: object, message: string) => {
      const line = { ...fields, level, message };
      this.log.push(line);
      this.onLine(line);
    };
    const agents = new HsmAgents({
      settings: { ...this.settings, objects },
      count: 2,
      callTimeoutMs: 30_000,
      maxCalls: 1_000,
      maxBytes: 1 << 24,
      starter: this.starter,
      log: { info: write('info'), warn: write('warn'), error: write('error') },
      alerts: alertsTo(write('error')),
      ...options,
    });
    this.#running.add(agents);
    return agents;
  }

  /** Agents that are all ready, and what the first of them said. */
  async startReporting(
    options: StartOptions = {},
  ): Promise<{ agents: HsmAgents; report: TokenReport }> {
    const agents = this.agents(options);
    const report = await agents.start();
    await eventually(() => assert.equal(agents.pids.length, options.count ?? 2));
    return { agents, report };
  }

  /** Agents that are all ready. */
  async start(options: StartOptions = {}): Promise<HsmAgents> {
    return (await this.startReporting(options)).agents;
  }

  /** Ends all agents that were started. */
  async stopAll(): Promise<void> {
    this.onLine = () => {};
    for (const agents of this.#running) await agents.stop();
    this.#running.clear();
  }
}

/** A root and a seal key, for key versions. */
export function keysOf(root: TokenObject, seal: TokenObject): Keys {
  return { rootKeyId: root.objectId as RootKeyId, sealKeyId: seal.objectId as SealKeyId };
}

export function createVersion(agents: Calls, keys: Keys): Promise<SealedKeyVersion> {
  const identity = { tenantId: newId<TenantId>(), keyId: newId<KeyId>(), version: 1 };
  const algorithm = ALGORITHM.hmacSha512Aes256Gcm;
  return agents.call('createKeyVersion', { ...identity, algorithm, ...keys }, soon());
}

export async function seal(
  agents: Calls,
  version: SealedKeyVersion,
  text: string,
): Promise<Buffer> {
  const { ciphertext } = await agents.call(
    'seal',
    {
      keyVersion: encode(sealedKeyVersion, version),
      purpose: PURPOSE.payload,
      subject: NO_SUBJECT,
      contextDigest: DIGEST,
      plaintext: Buffer.from(text),
    },
    soon(),
  );
  return ciphertext;
}

export async function open(
  agents: Calls,
  version: SealedKeyVersion,
  ciphertext: Buffer,
): Promise<string> {
  const { plaintext } = await agents.call(
    'open',
    {
      keyVersion: encode(sealedKeyVersion, version),
      subject: NO_SUBJECT,
      contextDigest: DIGEST,
      ciphertext: Buffer.from(ciphertext),
    },
    soon(),
  );
  return plaintext.toString();
}

/** The versions under these keys; undefined for each that did not verify. */
export async function transfer(
  agents: Calls,
  versions: readonly SealedKeyVersion[],
  { rootKeyId, sealKeyId }: Keys,
): Promise<(SealedKeyVersion | undefined)[]> {
  const items = versions.map((version) => ({
    rootKeyId,
    keyVersion: encode(sealedKeyVersion, version),
  }));
  const { keyVersions } = await agents.call('transfer', { sealKeyId, items }, soon());
  return keyVersions.map((moved) =>
    moved.length === 0 ? undefined : decode(sealedKeyVersion, moved),
  );
}
