/**
 * Where a move to another token stands, by what both tokens have and what is recorded of them; and
 * what can't be moved between.
 *
 * Invariant: changes nothing, in tokens and database, so that a preview and a command that goes on
 * see the same. What is done about it is `token-migration.ts`.
 */
import { TokenRefused } from '../../hsm/agent-pool.ts';
import type { AgentStarter } from '../../hsm/agent-starter.ts';
import { surveyToken } from '../../hsm/token-commands.ts';
import { TOKEN_OBJECT_ROLES, type TokenSurvey } from '../../hsm/token-profile.ts';
import type { TokenId } from '../../ids.ts';
import { SYSTEM_TENANT } from '../../names.ts';
import type { OwnerConnection } from '../../store/core/owner.ts';
import { type EnvironmentRecord, readEnvironmentAsOwner } from '../../store/environment.ts';
import { findRootOwners, type NextObject } from '../../store/hsm-token/token-migration.ts';
import { selectTokenObjects, type TokenObjectRecord } from '../../store/hsm-token/token-objects.ts';
import type { TokenRecord } from '../../store/hsm-token/tokens.ts';
import type { AllSealedRecords } from '../seals/reseal.ts';
import { tokenInWords } from './serving-tokens.ts';
import { tokenObjectsOf } from './token-objects.ts';

/** What a migration works with. */
export interface MigrationParts {
  readonly owner: OwnerConnection;
  readonly caller: string;
  /** The token that key versions are in, and the one that they go to. */
  /** What starts agents on either token. */
  readonly current: AgentStarter;
  readonly next: AgentStarter;
  /** What is sealed by the next token's seal key after the switch. */
  readonly sealedRecords: AllSealedRecords;
  /** Leave versions that do not verify where they are. */
  readonly leaveBehind: boolean;
  /** Hears, in words for the operator, how far it is. */
  readonly say: (line: string) => void;
}

/** Both tokens as they are and as they are recorded. */
export interface Situation {
  readonly environment: EnvironmentRecord;
  readonly current: TokenSurvey;
  readonly next: TokenSurvey;
  readonly recordedNext: TokenRecord | undefined;
  /** Of the next token. */
  readonly nextObjects: readonly TokenObjectRecord[];
}

/** The move is made. */
export interface Moved {
  readonly left: TokenSurvey;
  /** What is recorded of that, if it is one that key versions have moved from. */
  readonly former: TokenRecord | undefined;
}

/**
 * Looks at both tokens. Throws {@link TokenRefused}, in words for the operator, for what can't be
 * moved between.
 */
export async function look(parts: MigrationParts): Promise<Situation | Moved> {
  const { owner, current: from, next: to } = parts;
  const environment = await readEnvironmentAsOwner(owner);
  const { environmentId, tokens } = environment;
  if (environment.tokenProfile === null)
    throw new Error(
      'cannot move key versions: no token is recorded; run `keyward-server token init`',
    );
  const recordedNext = tokens.find(({ state }) => state === 'NEXT');
  const nextObjects = await objectsIn(owner, recordedNext?.tokenId);
  const survey = (starter: AgentStarter, records: readonly TokenObjectRecord[]) =>
    surveyToken({ environmentId, objects: tokenObjectsOf(records) }, starter);
  const hasCurrent = ({ unrecorded }: TokenSurvey) =>
    environment.tokenObjects.some(({ objectId, state }) =>
      unrecorded.some((each) => each.objectId === objectId && state === 'CURRENT'),
    );
  // The one whose PIN was never used here first: nothing is made if it is wrong.
  const next = await survey(to, nextObjects);
  const current = await survey(from, environment.tokenObjects);
  if (hasCurrent(next)) {
    if (recordedNext !== undefined || lacking(current) === 0)
      throw new TokenRefused(
        'cannot move key versions: KEYWARD_NEXT_HSM_* names the current token; it must name another',
      );
    const former = tokens.find(
      ({ state, label, serialNumber }) =>
        state === 'FORMER' && label === current.label && serialNumber === current.serialNumber,
    );
    return { left: current, former };
  }
  requireCurrent(current, environment);
  requireNext(next, recordedNext);
  return { environment, current, next, recordedNext, nextObjects };
}

/** What is recorded of the objects in a token; nothing where there is none. */
export async function objectsIn(
  owner: OwnerConnection,
  tokenId: TokenId | undefined,
): Promise<TokenObjectRecord[]> {
  const objects = await selectTokenObjects(owner.query);
  return objects.filter((each) => each.tokenId === tokenId);
}

/** Whose keys of which roles the next token is to have and hasn't. */
export async function missingObjects(
  owner: OwnerConnection,
  objects: readonly TokenObjectRecord[],
): Promise<Pick<NextObject, 'tenantId' | 'tenant' | 'role'>[]> {
  const has = (tenantId: string, role: string) =>
    objects.some(
      (each) => each.tenantId === tenantId && each.role === role && each.state === 'CREATED',
    );
  return (await findRootOwners(owner)).flatMap(({ tenantId, tenant }) =>
    (tenant === SYSTEM_TENANT ? TOKEN_OBJECT_ROLES : (['root'] as const))
      .filter((role) => !has(tenantId, role))
      .map((role) => ({ tenantId, tenant, role })),
  );
}

/** How many objects the token must have and hasn't. */
function lacking({ objects }: TokenSurvey): number {
  return objects.filter(
    ({ presence, condition }) => presence === undefined && condition !== 'found',
  ).length;
}

function requireCurrent(current: TokenSurvey, { currentToken }: EnvironmentRecord): void {
  const count = lacking(current);
  if (count > 0)
    throw new TokenRefused(
      `cannot move key versions: the token ${tokenInWords(current)} lacks ${count} objects of the current token, ${tokenInWords(currentToken)}; KEYWARD_HSM_* must name the current token`,
    );
  if (!current.oaep)
    throw new TokenRefused(
      'cannot move key versions: the current token has no RSA-OAEP, so none can leave it wrapped',
    );
}

function requireNext(next: TokenSurvey, recorded: TokenRecord | undefined): void {
  const { label, serialNumber, lacks, wraps, oaep, unrecorded } = next;
  if (
    recorded !== undefined &&
    (recorded.label !== label || recorded.serialNumber !== serialNumber)
  )
    throw new TokenRefused(
      `cannot move key versions: they are already moving to the token ${tokenInWords(recorded)}, and KEYWARD_NEXT_HSM_* names ${tokenInWords(next)}`,
    );
  const missing = [
    ...lacks,
    ...(wraps.length > 0 ? [] : ['AES key wrap']),
    ...(oaep ? [] : ['RSA-OAEP']),
  ];
  if (missing.length > 0)
    throw new TokenRefused(`cannot move key versions: the next token lacks ${missing.join(', ')}`);
  const [strange] = unrecorded;
  if (strange !== undefined)
    throw new TokenRefused(
      `cannot move key versions: the next token has "${strange.label}" (${strange.objectId}), which the database does not record there`,
    );
}
