/**
 * What the HSM token is to this environment: what the token says of itself and of its objects, beside what the database has
 * recorded and keeps under them.
 *
 * Its invariant: it changes nothing and hides nothing; what a start would refuse is in it, and {@link objectionsTo} names
 * it. Whoever looks at the token is given, a serving agent or an operator's own. Knows no PKCS#11.
 */
import { type Call, monotonicNow } from '../call.ts';
import type { ObjectPosture, TokenObject, TokenPosture } from '../hsm/token-profile.ts';
import type { AnyId } from '../ids.ts';
import { countByRootKey, type EnvironmentRecord, readEnvironment } from '../store/environment.ts';
import type { Deadline, Store } from '../store/store.ts';
import type { KeyringParts } from './keyring.ts';

/** Every key version is counted. */
const COUNT_MS = 60_000;

/** One of the environment's objects. */
export interface TokenObjectStatus extends ObjectPosture {
  /** Whether it is the one for new things. */
  readonly isCurrent: boolean;
  /** How many key versions are wrapped under it, in all tenants, destroyed ones aside; 0 for all but root keys. */
  readonly keyVersions: number;
}

/** See this file's first paragraph. */
export interface TokenStatusRecord extends TokenPosture {
  readonly environmentId: string;
  readonly objects: readonly TokenObjectStatus[];
}

/** Looks at the token and at the given objects in it. */
export type LookAtToken = (objects: readonly TokenObject[]) => Promise<TokenPosture>;

/** The objects that a database has recorded, as the HSM's side knows them. */
export function tokenObjectsOf({ tokenObjects }: Pick<EnvironmentRecord, 'tokenObjects'>): TokenObject[] {
  return tokenObjects.map(({ role, objectId }) => ({ role, objectId: objectId as AnyId }));
}

/** Throws what `look` and the store throw; without a call, when Postgres takes longer than a minute for its part. */
export async function readTokenStatus(
  store: Store,
  look: LookAtToken,
  call: Deadline = { deadline: monotonicNow() + COUNT_MS },
): Promise<TokenStatusRecord> {
  const environment = await readEnvironment(store, call);
  const posture = await look(tokenObjectsOf(environment));
  const keyVersions = await countByRootKey(store, call);
  const current = new Map(environment.tokenObjects.map((each) => [each.objectId, each.isCurrent]));
  return {
    ...posture,
    environmentId: environment.environmentId,
    objects: posture.objects.map((object) => ({
      ...object,
      isCurrent: current.get(object.objectId) ?? false,
      keyVersions: keyVersions.get(object.objectId) ?? 0,
    })),
  };
}

/** What a service would refuse to start on, in words for operators; empty when it would start. */
export function objectionsTo({ objects, unrecorded }: TokenPosture): string[] {
  return [
    ...objects
      .filter(({ condition }) => condition !== 'found')
      .map(({ role, objectId, condition }) => `${role} ${objectId}: ${condition}`),
    ...objects.flatMap(({ role, objectId, attributes }) =>
      attributes
        .filter(({ state }) => state === 'violated' || state === 'unsupported')
        .map(({ attribute, state }) => `${role} ${objectId} ${attribute}: ${state}`),
    ),
    ...unrecorded.map(({ objectId, label }) => `${label} (${objectId}): not recorded in this database`),
  ];
}

/** The token as a serving agent sees it now. */
export class TokenStatus {
  readonly #parts: Pick<KeyringParts, 'store' | 'agents'>;

  constructor(parts: Pick<KeyringParts, 'store' | 'agents'>) {
    this.#parts = parts;
  }

  /** Throws HSM_UNAVAILABLE. */
  get(call: Call): Promise<TokenStatusRecord> {
    const { store, agents } = this.#parts;
    return readTokenStatus(store, (objects) => agents.call('report', { objects }, call.deadline), call);
  }
}
