/**
 * What the HSM token is to this environment: what the token says of itself and of its objects,
 * beside what the database has recorded and keeps under them, and what an operator has to do about
 * it.
 *
 * Its invariant: it changes nothing and hides nothing; what a start would refuse is in it, and
 * {@link objectionsTo} names it. Whoever looks at the token is given, a serving agent or an
 * operator's own. Knows no PKCS#11.
 */
import { type Call, monotonicNow } from '../../call.ts';
import type { ObjectPosture, TokenObject, TokenPosture } from '../../hsm/token-profile.ts';
import type { Agents } from '../../hsm/token-router.ts';
import type { Deadline } from '../../store/core/transaction.ts';
import { readEnvironment } from '../../store/environment.ts';
import {
  countUnderTokenKeys,
  type TokenObjectRecord,
} from '../../store/hsm-token/token-objects.ts';
import type { Store } from '../../store/store.ts';
import { tokenObjectsOf } from './token-objects.ts';

/** Every key version is counted. */
const COUNT_MS = 60_000;

/** Where copies of a shredded tenant's root keys may be: to be worked through by an operator. */
export const TOKEN_COPIES: readonly string[] = [
  'the token itself: `keyward-server token shred` destroys them there',
  'every other member of its cluster or high-availability group, unless destruction replicates to them',
  'backup tokens, backup HSMs and smart cards that the token was cloned to',
  'wrapped exports of the partition, and a software token’s files (directories.tokendir), with their backups',
  'snapshots of the machines and volumes that hold any of these',
];

/** One of the environment's objects. */
export interface TokenObjectStatus extends ObjectPosture {
  /** Whose it is: `system` for what tenants share. */
  readonly tenant: string;
  /** Whether it is the one for new things. */
  readonly isCurrent: boolean;
  /** Whether a service needs it to start. */
  readonly isRequired: boolean;
  /**
   * How many key versions are wrapped under it, in all tenants, destroyed ones aside; 0 for all but
   * root keys.
   */
  readonly keyVersions: number;
  /** In words for an operator, with the command; empty for nothing. */
  readonly toDo: string;
  /** Its tenant is shredded: every copy of the token is to be seen to. */
  readonly isShredded: boolean;
}

/** One of the environment's objects, without what would have to be counted. */
export type TokenObjectPosture = Omit<TokenObjectStatus, 'keyVersions' | 'toDo'>;

/** Describes the token and its objects in it. */
export interface EnvironmentPosture extends TokenPosture {
  readonly environmentId: string;
  readonly objects: readonly TokenObjectPosture[];
}

/** Describes the token, its objects, and what an operator has to do about each. */
export interface TokenStatusRecord extends TokenPosture {
  readonly environmentId: string;
  readonly objects: readonly TokenObjectStatus[];
}

/** Looks at the token and at the given objects in it. */
export type LookAtToken = (objects: readonly TokenObject[]) => Promise<TokenPosture>;

/**
 * Throws what `look` and the store throw; without a call, when Postgres takes longer than a minute
 * for its part.
 */
export async function readTokenStatus(
  store: Store,
  look: LookAtToken,
  call: Deadline = { deadline: monotonicNow() + COUNT_MS },
): Promise<TokenStatusRecord> {
  const { looked, posture } = await lookAt(store, look, call);
  const counts = await countUnderTokenKeys(store, call);
  return {
    ...posture,
    objects: looked.map(({ record, object }) => {
      const { keyVersions = 0, sealedRecords = 0 } = counts.get(record.objectId) ?? {};
      return {
        ...object,
        keyVersions: record.role === 'root' ? keyVersions : 0,
        toDo: toDoOf(record, object, keyVersions + sealedRecords),
      };
    }),
  };
}

/** Looks at the token, and at each object that is recorded and not known to be gone. */
async function lookAt(
  store: Store,
  look: LookAtToken,
  call: Deadline,
): Promise<{
  readonly posture: EnvironmentPosture;
  readonly looked: readonly {
    readonly record: TokenObjectRecord;
    readonly object: TokenObjectPosture;
  }[];
}> {
  const { environmentId, tokenObjects } = await readEnvironment(store, call);
  const objects = tokenObjectsOf(tokenObjects);
  const posture = await look(objects);
  const looked = posture.objects.flatMap((object, index) => {
    const record = tokenObjects[index] as TokenObjectRecord;
    if (record.state === 'DESTROYED' && object.condition === 'missing') return [];
    const place = {
      tenant: record.tenant,
      isCurrent: record.state === 'CURRENT',
      isRequired: objects[index]?.presence === undefined,
      isShredded: record.tenantState === 'SHREDDED',
    };
    return { record, object: { ...object, ...place } };
  });
  return {
    posture: { ...posture, environmentId, objects: looked.map(({ object }) => object) },
    looked,
  };
}

function toDoOf(record: TokenObjectRecord, { condition }: ObjectPosture, under: number): string {
  const { state, tenant, tenantState, objectId } = record;
  const destroy = `keyward-server token destroy-key ${objectId}`;
  if (state === 'DESTROYED') return `it was destroyed and is in the token again: run ${destroy}`;
  if (tenantState === 'SHREDDED')
    return `its tenant is shredded: run keyward-server token shred ${tenant}`;
  if (state === 'DESTROYING') return `its destruction was interrupted: run ${destroy}`;
  if (state === 'ABANDONED' && condition !== 'missing')
    return `it was made and never used: run ${destroy}`;
  if (state === 'RETIRED' && under === 0) return `nothing is under it any more: run ${destroy}`;
  return '';
}

/** What a service would refuse to start on, in words for operators; empty when it would start. */
export function objectionsTo({
  objects,
  unrecorded,
}: Pick<EnvironmentPosture, 'objects' | 'unrecorded'>): string[] {
  const required = objects.filter(({ isRequired }) => isRequired);
  return [
    ...required
      .filter(({ condition }) => condition !== 'found')
      .map(({ role, objectId, condition }) => `${role} ${objectId}: ${condition}`),
    ...required.flatMap(({ role, objectId, attributes }) =>
      attributes
        .filter(({ state }) => state === 'violated' || state === 'unsupported')
        .map(({ attribute, state }) => `${role} ${objectId} ${attribute}: ${state}`),
    ),
    ...unrecorded.map(
      ({ objectId, label }) => `${label} (${objectId}): not recorded in this database`,
    ),
  ];
}

/** What {@link TokenStatus} stands on. */
export interface TokenStatusParts {
  readonly store: Store;
  readonly agents: Agents;
}

/** The token as a serving agent sees it now. */
export class TokenStatus {
  readonly #parts: TokenStatusParts;

  constructor(parts: TokenStatusParts) {
    this.#parts = parts;
  }

  /** Throws HSM_UNAVAILABLE. */
  get(call: Call): Promise<TokenStatusRecord> {
    return readTokenStatus(this.#parts.store, this.#lookBy(call), call);
  }

  /** As {@link TokenStatus.get}, without what would have to be counted. Throws HSM_UNAVAILABLE. */
  async posture(call: Deadline): Promise<EnvironmentPosture> {
    return (await lookAt(this.#parts.store, this.#lookBy(call), call)).posture;
  }

  #lookBy({ deadline }: Deadline): LookAtToken {
    return (objects) => this.#parts.agents.call('report', { objects }, deadline);
  }
}
