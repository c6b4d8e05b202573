/**
 * Moving all key versions to another token, by an operator with both PINs at hand, while services run: `token migrate`.
 *
 * The next token and its keys are recorded and made; every version is copied under them; when every replica holds them, the
 * copies take the rows' place in one transaction; then other records are sealed anew by the next token's seal key, which
 * services do as well, as long as they have both tokens. Invariants: each step is a row's change, so a command that was cut off
 * anywhere goes on when it is run again; a version that doesn't verify is named, and keeps the switch from being made;
 * material passes between the tokens only wrapped (`hsm/key-mover.ts`). Destroys nothing. Knows no SQL and no PKCS#11.
 */
import { setTimeout as delay } from 'node:timers/promises';
import { TokenRefused } from '../hsm/agent-pool.ts';
import { KeyMover } from '../hsm/key-mover.ts';
import type { MoveSettings, TokenSettings } from '../hsm/protocol.ts';
import { createTokenKey, probeToken, surveyToken, withRecordAgent } from '../hsm/token-commands.ts';
import {
  TOKEN_OBJECT_ROLES,
  type TokenProfile,
  type TokenSurvey,
  type TransportKind,
  transportBetween,
} from '../hsm/token-profile.ts';
import { type AnyId, newId } from '../ids.ts';
import { type EnvironmentRecord, readEnvironmentAsOwner } from '../store/environment.ts';
import {
  BEGINNING,
  countCopies,
  readUncopied,
  type UncopiedKeyVersion,
  writeCopies,
} from '../store/moved-key-versions.ts';
import type { OwnerConnection } from '../store/owner.ts';
import type { RewrappedKeyVersion } from '../store/stale-key-versions.ts';
import {
  announce,
  countLacking,
  describeCurrentToken,
  endNextObject,
  findRootOwners,
  lockMigration,
  type NextObject,
  recordNextObject,
  recordNextToken,
  switchTokens,
} from '../store/token-migration.ts';
import { selectTokenObjects, type TokenObjectRecord } from '../store/token-objects.ts';
import type { TokenRecord } from '../store/tokens.ts';
import { formatKeyVersionName, SYSTEM_TENANT } from './names.ts';
import { type AllSealedRecords, resealAll } from './reseal.ts';
import { tokenInWords } from './serving-tokens.ts';
import { tokenObjectsOf } from './token-objects.ts';

/** So many versions go to an agent at once. */
const BATCH = 200;
/** So many may be copied while nobody can make a key or a version. */
const MOST_LEFT = 500;
const LOOK_MS = 500;
const PROGRESS_MS = 2_000;
/** So many names of what doesn't verify are told. */
const NAMED = 20;

/** How key versions travel, for operators. */
const TRANSPORT_WORDS: Readonly<Record<TransportKind, string>> = {
  'aes-key-wrap': 'AES key wrap by an AES-256 transport key, which RSA-OAEP under a 3072-bit key moves once',
  'rsa-oaep':
    'RSA-OAEP under a 3072-bit key, for each key version: the tokens have no AES key wrap in common',
};

export interface MigrationParts {
  readonly owner: OwnerConnection;
  readonly caller: string;
  /** The token that key versions are in, and the one that they go to. */
  readonly current: TokenSettings;
  readonly next: TokenSettings;
  /** The agents' whole environment. */
  readonly environment: Readonly<Record<string, string>>;
  /** What is sealed by the next token's seal key after the switch. */
  readonly sealedRecords: AllSealedRecords;
  /** Leave versions that do not verify where they are. */
  readonly leaveBehind: boolean;
  /** Hears, in words for the operator, how far it is. */
  readonly say: (line: string) => void;
}

/** Both tokens as they are and as they are recorded. */
interface Situation {
  readonly environment: EnvironmentRecord;
  readonly current: TokenSurvey;
  readonly next: TokenSurvey;
  readonly recordedNext: TokenRecord | undefined;
  /** Of the next token. */
  readonly nextObjects: readonly TokenObjectRecord[];
}

/** The move is made. */
interface Moved {
  readonly left: TokenSurvey;
  /** What is recorded of that, if it is one that key versions have moved from. */
  readonly former: TokenRecord | undefined;
}

/** What there would be to do, in words; changes nothing, in tokens and database. Throws Error, in words for the operator. */
export async function previewMigration(parts: MigrationParts): Promise<void> {
  const { owner, say } = parts;
  const situation = await look(parts);
  if ('former' in situation) {
    const left = await hasStale(parts);
    return say(
      left ? `${MOVED}: records are still to be sealed by its seal key` : `${MOVED}: ${NOTHING_LEFT}`,
    );
  }
  const { current, next, recordedNext, environment } = situation;
  const source = (environment.tokenProfile as TokenProfile).wrap;
  const target = (recordedNext?.profile as TokenProfile | undefined)?.wrap ?? next.wraps[0] ?? source;
  const { versions, copied } = await countCopies(owner.query, recordedNext?.tokenId);
  const missing = (await missingObjects(owner, situation.nextObjects)).length;
  const { replicas, lacking } =
    recordedNext === undefined
      ? { replicas: 0, lacking: 0 }
      : await countLacking(owner, recordedNext.tokenId);
  say(`from       ${tokenInWords(current)}, ${current.module}`);
  say(`to         ${tokenInWords(next)}, ${next.module}`);
  say(`transport  ${TRANSPORT_WORDS[transportBetween(source, target)]}`);
  say(`keys       ${missing} are to be made in the next token`);
  say(`versions   ${versions} key versions, of which ${copied} are copied`);
  if (recordedNext !== undefined && missing === 0)
    say(`replicas   ${replicas} run, of which ${lacking} do not hold the next token's keys`);
  say('nothing was changed');
}

/** See this file's first paragraph. Throws Error, in words for the operator; then running it again goes on. */
export async function migrateToken(parts: MigrationParts): Promise<void> {
  if (!(await lockMigration(parts.owner))) throw new Error('another command is moving key versions now');
  const { say } = parts;
  const situation = await look(parts);
  if ('former' in situation) {
    if (!(await hasStale(parts))) return say(`${MOVED}: ${NOTHING_LEFT}`);
    if (situation.former === undefined)
      throw new TokenRefused(
        `records are still to be sealed anew, and key versions have not moved from ${tokenInWords(situation.left)}`,
      );
    say(`going on after the switch: ${MOVED}`);
    return resealRecords(parts, situation.former);
  }
  {
    using migration = await Migration.begin(parts, situation);
    await migration.run();
  }
  await resealRecords(parts, situation.environment.currentToken);
  say('restart services, one by one, with KEYWARD_HSM_* naming it and without KEYWARD_NEXT_HSM_*');
}

/**
 * Has what former seal keys vouch for vouched for by the current one: verified in the token that was left, sealed in the one
 * that is current. Whatever of it a service does meanwhile is as good.
 */
async function resealRecords(parts: MigrationParts, former: TokenRecord): Promise<void> {
  const { owner, current: from, next: to, environment, say } = parts;
  const { currentToken, environmentId, tokens } = await readEnvironmentAsOwner(owner);
  const left = tokens.find(({ tokenId }) => tokenId === former.tokenId) ?? former;
  const objects = await selectTokenObjects(owner.query);
  const settingsOf = (token: TokenSettings, { tokenId, profile }: TokenRecord) => ({
    ...token,
    environmentId,
    profile: profile as TokenProfile,
    objects: tokenObjectsOf(objects.filter((each) => each.tokenId === tokenId)),
  });
  const corrupt: string[] = [];
  const { resealed } = await withRecordAgent(settingsOf(from, left), environment, (source) =>
    withRecordAgent(settingsOf(to, currentToken), environment, (target) =>
      resealAll(parts.sealedRecords, {
        transact: (work) => owner.transaction(() => work(owner.query)),
        verify: source.verify,
        seal: target.seal,
        mayGoOn: () => Promise.resolve(true),
        onCorrupt: (resource) => corrupt.push(resource),
        evenIfPaused: true,
      }),
    ),
  );
  say(`sealed anew what is recorded of ${resealed} keys and policies`);
  if (corrupt.length > 0)
    sayNames(say, `${corrupt.length} keys and policies do not verify, and are not sealed anew:`, corrupt);
}

async function hasStale({ owner, sealedRecords }: MigrationParts): Promise<boolean> {
  for (const records of sealedRecords) if ((await records.findFormer(owner.query)).length > 0) return true;
  return false;
}

function sayNames(say: MigrationParts['say'], head: string, names: readonly string[]): void {
  say(head);
  for (const name of names.slice(0, NAMED)) say(`  ${name}`);
  if (names.length > NAMED) say(`  and ${names.length - NAMED} more`);
}

/** Looks at both tokens, and refuses what can't be moved between. */
async function look(parts: MigrationParts): Promise<Situation | Moved> {
  const { owner, current: from, next: to, environment: variables } = parts;
  const environment = await readEnvironmentAsOwner(owner);
  const { environmentId, tokens } = environment;
  if (environment.tokenProfile === null)
    throw new Error('no token is recorded: run `keyward-server token init`');
  const recordedNext = tokens.find(({ state }) => state === 'NEXT');
  const nextObjects = (await selectTokenObjects(owner.query)).filter(
    ({ tokenId }) => tokenId === recordedNext?.tokenId,
  );
  const survey = (settings: TokenSettings, records: readonly TokenObjectRecord[]) =>
    surveyToken({ ...settings, environmentId, objects: tokenObjectsOf(records) }, variables);
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
        'the next token is the one that serves now: KEYWARD_NEXT_HSM_* must name another',
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

/** How many objects the token must have and hasn't. */
function lacking({ objects }: TokenSurvey): number {
  return objects.filter(({ presence, condition }) => presence === undefined && condition !== 'found').length;
}

function requireCurrent(current: TokenSurvey, { currentToken }: EnvironmentRecord): void {
  const count = lacking(current);
  if (count > 0)
    throw new TokenRefused(
      `the token ${tokenInWords(current)} lacks ${count} objects of the current token, ${tokenInWords(currentToken)}: KEYWARD_HSM_* must name that`,
    );
  if (!current.oaep)
    throw new TokenRefused('the current token has no RSA-OAEP: nothing can leave it wrapped');
}

function requireNext(next: TokenSurvey, recorded: TokenRecord | undefined): void {
  const { label, serialNumber, lacks, wraps, oaep, unrecorded } = next;
  if (recorded !== undefined && (recorded.label !== label || recorded.serialNumber !== serialNumber))
    throw new TokenRefused(
      `key versions are on their way to the token ${tokenInWords(recorded)}, and this is ${tokenInWords(next)}`,
    );
  const missing = [...lacks, ...(wraps.length > 0 ? [] : ['AES key wrap']), ...(oaep ? [] : ['RSA-OAEP'])];
  if (missing.length > 0) throw new TokenRefused(`the next token lacks ${missing.join(', ')}`);
  const [strange] = unrecorded;
  if (strange !== undefined)
    throw new TokenRefused(
      `the next token has "${strange.label}" (${strange.objectId}), which is not recorded as its`,
    );
}

/** Whose keys of which roles the next token is to have and hasn't. */
async function missingObjects(
  owner: OwnerConnection,
  objects: readonly TokenObjectRecord[],
): Promise<Pick<NextObject, 'tenantId' | 'tenant' | 'role'>[]> {
  const has = (tenantId: string, role: string) =>
    objects.some((each) => each.tenantId === tenantId && each.role === role && each.state === 'CREATED');
  return (await findRootOwners(owner)).flatMap(({ tenantId, tenant }) =>
    (tenant === SYSTEM_TENANT ? TOKEN_OBJECT_ROLES : (['root'] as const))
      .filter((role) => !has(tenantId, role))
      .map((role) => ({ tenantId, tenant, role })),
  );
}

/** One run of the command. */
class Migration implements Disposable {
  readonly #parts: MigrationParts;
  readonly #operator: { readonly caller: string; readonly method: string };
  readonly #environment: EnvironmentRecord;
  readonly #next: TokenRecord;
  #mover: KeyMover | undefined;
  /** The objects that the mover was opened with. */
  #known = '';
  #source: ReadonlySet<string> = new Set();

  private constructor(parts: MigrationParts, environment: EnvironmentRecord, next: TokenRecord) {
    this.#parts = parts;
    this.#operator = operatorOf(parts);
    this.#environment = environment;
    this.#next = next;
  }

  /** Records the next token, unless it is. */
  static async begin(parts: MigrationParts, situation: Situation): Promise<Migration> {
    const { owner, next: to, environment: variables, say } = parts;
    const { environment, current, next } = situation;
    await describeCurrentToken(owner, current);
    if (situation.recordedNext === undefined) {
      const profile = await probeToken({ ...to, environmentId: environment.environmentId }, variables);
      await recordNextToken(owner, operatorOf(parts), { ...next, profile });
      say(`the next token is ${tokenInWords(next)}`);
    } else say(`going on with the move to ${tokenInWords(next)}`);
    const { tokens } = await readEnvironmentAsOwner(owner);
    const recorded = tokens.find(({ state }) => state === 'NEXT');
    if (recorded === undefined) throw new Error('the next token is not recorded any more');
    return new Migration(parts, environment, recorded);
  }

  async run(): Promise<void> {
    const { say, leaveBehind } = this.#parts;
    for (;;) {
      await this.#makeKeys();
      await this.#openMover();
      const corrupt = await this.#copyAll();
      if (corrupt.length > 0) this.#report(corrupt);
      if (corrupt.length > 0 && !leaveBehind) throw new Error(REFUSED);
      if (await this.#waitForReplicas()) continue;
      const outcome = await this.#switch();
      if (outcome === 'corrupt') throw new Error(REFUSED);
      if (outcome === 'switched') break;
      await delay(LOOK_MS);
    }
    say(`the current token is ${tokenInWords(this.#next)}`);
  }

  /** Makes what the next token lacks, each recorded before. What was cut off is used if it is there, else made anew. */
  async #makeKeys(): Promise<void> {
    const { owner, next, environment, say } = this.#parts;
    const { environmentId } = this.#environment;
    const { tokenId } = this.#next;
    await this.#settleCutOff();
    const profile = this.#next.profile as TokenProfile;
    const missing = await missingObjects(owner, await this.#objectsOf(tokenId));
    if (missing.length === 0) return;
    const objects = missing.map((each): NextObject => ({ ...each, tokenId, objectId: newId<AnyId>() }));
    for (const object of objects) await recordNextObject(owner, this.#operator, object);
    // Agents that start meanwhile must know of them; once they are there, all must look.
    await announce(owner, tokenId);
    for (const object of objects) {
      const { role, objectId } = object;
      await createTokenKey({ ...next, environmentId, profile, role, objectId }, environment);
      await endNextObject(owner, this.#operator, object, 'CREATED');
      say(`made the ${role} key ${objectId} of tenants/${object.tenant}`);
    }
    await announce(owner, tokenId);
  }

  async #settleCutOff(): Promise<void> {
    const { owner, next, environment } = this.#parts;
    const { environmentId } = this.#environment;
    const cutOff = (await this.#objectsOf(this.#next.tokenId)).filter(({ state }) => state === 'CREATING');
    if (cutOff.length === 0) return;
    const { objects } = await surveyToken(
      { ...next, environmentId, objects: tokenObjectsOf(cutOff) },
      environment,
    );
    for (const [index, object] of cutOff.entries()) {
      const isThere = objects[index]?.condition === 'found';
      // Under an id of its own: whoever was cut off may yet make the other.
      await endNextObject(owner, this.#operator, object, isThere ? 'CREATED' : 'ABANDONED');
    }
    await announce(owner, this.#next.tokenId);
  }

  async #objectsOf(tokenId: string): Promise<TokenObjectRecord[]> {
    const objects = await selectTokenObjects(this.#parts.owner.query);
    return objects.filter((each) => each.tokenId === tokenId);
  }

  /** Opens both tokens, anew when one has other objects than it had. */
  async #openMover(): Promise<void> {
    const { current, next, environment, say } = this.#parts;
    const { environmentId, tokenProfile, currentToken } = this.#environment;
    const end = async (token: TokenSettings, tokenId: string, profile: unknown): Promise<MoveSettings> => ({
      ...token,
      environmentId,
      profile: profile as TokenProfile,
      objects: tokenObjectsOf(await this.#objectsOf(tokenId)).map(requireExpected),
    });
    const ends = {
      source: await end(current, currentToken.tokenId, tokenProfile),
      target: await end(next, this.#next.tokenId, this.#next.profile),
    };
    const known = JSON.stringify(ends);
    if (known === this.#known) return;
    const isFirst = this.#mover === undefined;
    this.#mover?.[Symbol.dispose]();
    this.#mover = await KeyMover.open(
      { settings: ends.source, environment },
      { settings: ends.target, environment },
    );
    this.#known = known;
    this.#source = new Set(ends.source.objects.map(({ objectId }) => objectId));
    if (isFirst) say(`key versions travel by ${TRANSPORT_WORDS[this.#mover.kind]}`);
  }

  /** Copies every version that has no up-to-date copy; returns those that don't verify. */
  async #copyAll(): Promise<UncopiedKeyVersion[]> {
    const { owner, say } = this.#parts;
    const { tokenId } = this.#next;
    const corrupt: UncopiedKeyVersion[] = [];
    let copied = 0;
    let saidAt = performance.now();
    for (let after = BEGINNING; ; ) {
      const { versions, last } = await readUncopied(owner, tokenId, after, BATCH);
      if (last === undefined) break;
      after = last;
      if (versions.length === 0) continue;
      const bad = await this.#copy(versions);
      corrupt.push(...bad);
      copied += versions.length - bad.length;
      if (performance.now() - saidAt < PROGRESS_MS) continue;
      saidAt = performance.now();
      say(`copied ${copied} key versions so far`);
    }
    if (copied > 0) say(`copied ${copied} key versions`);
    return corrupt;
  }

  /** Copies these; returns those that don't verify. Those under keys that are newer than the mover wait for another one. */
  async #copy(read: readonly UncopiedKeyVersion[]): Promise<UncopiedKeyVersion[]> {
    const newer = await this.#newerThanMover(read);
    const versions = read.filter(
      ({ record }) => !newer.has(record.rootKeyId) && !newer.has(record.sealKeyId),
    );
    const [first] = versions;
    if (first === undefined || this.#mover === undefined) return [];
    const moves = versions.map(({ record, rootKeyId }) => ({ version: record, rootKeyId }));
    // There is one seal key for all tenants.
    const moved = await this.#mover.move(moves, first.sealKeyId);
    const copies: RewrappedKeyVersion[] = [];
    const corrupt: UncopiedKeyVersion[] = [];
    for (const [index, version] of versions.entries()) {
      const after = moved[index];
      if (after === undefined) corrupt.push(version);
      else copies.push({ before: version.record, after });
    }
    await writeCopies(this.#parts.owner, copies);
    return corrupt;
  }

  /** Keys that these are under, and that were recorded since the mover was opened. */
  async #newerThanMover(versions: readonly UncopiedKeyVersion[]): Promise<ReadonlySet<string>> {
    const keys = versions.flatMap(({ record }) => [record.rootKeyId, record.sealKeyId] as string[]);
    const unknown = new Set(keys.filter((key) => !this.#source.has(key)));
    if (unknown.size === 0) return unknown;
    const recorded = await this.#objectsOf(this.#environment.currentToken.tokenId);
    return new Set(recorded.map(({ objectId }) => `${objectId}`).filter((id) => unknown.has(id)));
  }

  /** Waits until every replica that runs holds the next token's keys. Returns whether it had to wait. */
  async #waitForReplicas(): Promise<boolean> {
    const { owner, say } = this.#parts;
    let said = '';
    for (;;) {
      const { replicas, lacking } = await countLacking(owner, this.#next.tokenId);
      if (lacking === 0) return said !== '';
      const line = `waiting for ${lacking} of ${replicas} replicas to hold the next token's keys: restart them, one by one, with KEYWARD_NEXT_HSM_*; this command may be stopped and run again`;
      if (line !== said) say(line);
      said = line;
      await delay(LOOK_MS);
    }
  }

  async #switch() {
    const { owner, leaveBehind } = this.#parts;
    return switchTokens(owner, this.#operator, {
      from: this.#environment.currentToken.tokenId,
      to: this.#next.tokenId,
      mostLeft: MOST_LEFT,
      leaveBehind,
      copy: async (left) => {
        const corrupt = await this.#copy(left);
        if (corrupt.length > 0) this.#report(corrupt);
        return corrupt;
      },
    });
  }

  #report(corrupt: readonly UncopiedKeyVersion[]): void {
    sayNames(
      this.#parts.say,
      `${corrupt.length} key versions do not verify, and are not copied:`,
      corrupt.map((version) => formatKeyVersionName(version, version.record.version)),
    );
  }

  [Symbol.dispose](): void {
    this.#mover?.[Symbol.dispose]();
  }
}

const MOVED = 'the next token is the current one already';
const NOTHING_LEFT = 'nothing is to be done';
const REFUSED =
  'the switch is not made: repair or destroy what does not verify, or leave it behind by --leave-behind; all else is copied';

function operatorOf({ caller }: MigrationParts) {
  return { caller, method: 'keyward-server token migrate' };
}

/** What was made must be there: an agent that can't see it is of no use to a move. */
function requireExpected(object: MoveSettings['objects'][number]): MoveSettings['objects'][number] {
  if (object.presence !== 'expected') return object;
  const { presence: _, ...required } = object;
  return required;
}
