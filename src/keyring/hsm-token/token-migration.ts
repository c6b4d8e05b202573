/**
 * Moving all key versions to another token, by an operator with both PINs at hand, while services
 * run: `token migrate`.
 *
 * The next token and its keys are recorded and made; every version is copied under them; when every
 * replica holds them, the copies take the rows' place in one transaction; then other records are
 * sealed anew by the next token's seal key, which services do as well, as long as they have both
 * tokens. Invariants: each step is a row's change, so a command that was cut off anywhere goes on
 * when it is run again; a version that doesn't verify is named, and keeps the switch from being
 * made. Destroys nothing. Where a move stands is `token-migration-situation.ts`; how versions are
 * copied, `token-migration-copies.ts`. Knows no SQL and no PKCS#11.
 */
import { setTimeout as delay } from 'node:timers/promises';
import { TokenRefused } from '../../hsm/agent-pool.ts';
import {
  createTokenKey,
  probeToken,
  type RecordAgent,
  surveyToken,
  withRecordAgent,
} from '../../hsm/token-commands.ts';
import { type TokenProfile, transportBetween } from '../../hsm/token-profile.ts';
import { type AnyId, newId } from '../../ids.ts';
import { formatKeyVersionName, formatTenantName } from '../../names.ts';
import { type EnvironmentRecord, readEnvironmentAsOwner } from '../../store/environment.ts';
import { countCopies } from '../../store/hsm-token/moved-key-versions.ts';
import { findTokenKeySet, type TokenKeySealer } from '../../store/hsm-token/token-key-set.ts';
import {
  announce,
  countLacking,
  describeCurrentToken,
  endNextObject,
  lockMigration,
  type NextObject,
  recordNextObject,
  recordNextToken,
  switchTokens,
} from '../../store/hsm-token/token-migration.ts';
import { selectTokenObjects } from '../../store/hsm-token/token-objects.ts';
import type { TokenRecord } from '../../store/hsm-token/tokens.ts';
import type { KeyVersionToRewrap } from '../../store/lifecycle/rewrapped-key-versions.ts';
import { resealAll } from '../seals/reseal.ts';
import { tokenInWords } from './serving-tokens.ts';
import { operatorSealer } from './token-key-vouching.ts';
import { KeyVersionCopies, TRANSPORT_WORDS } from './token-migration-copies.ts';
import {
  look,
  type MigrationParts,
  missingObjects,
  objectsIn,
  type Situation,
} from './token-migration-situation.ts';
import { tokenObjectsOf } from './token-objects.ts';

/** So many may be copied while nobody can make a key or a version. */
const MOST_LEFT = 500;
const LOOK_MS = 500;
/** So many names of what doesn't verify are told. */
const NAMED = 20;

/**
 * What there would be to do, in words; changes nothing, in tokens and database. Throws Error, in
 * words for the operator.
 */
export async function previewMigration(parts: MigrationParts): Promise<void> {
  const { owner, say } = parts;
  const situation = await look(parts);
  if ('former' in situation) {
    const left = await hasStale(parts);
    return say(
      left
        ? `${MOVED}, but not all records are sealed by its seal key yet`
        : `${MOVED}; ${NOTHING_LEFT}`,
    );
  }
  const { current, next, recordedNext, environment } = situation;
  const source = (environment.tokenProfile as TokenProfile).wrap;
  const target =
    (recordedNext?.profile as TokenProfile | undefined)?.wrap ?? next.wraps[0] ?? source;
  const { versions, copied } = await countCopies(owner.query, recordedNext?.tokenId);
  const missing = (await missingObjects(owner, situation.nextObjects)).length;
  const { replicas, lacking } =
    recordedNext === undefined
      ? { replicas: 0, lacking: 0 }
      : await countLacking(owner, recordedNext.tokenId);
  say(`from       ${tokenInWords(current)}, ${current.module}`);
  say(`to         ${tokenInWords(next)}, ${next.module}`);
  say(`transport  ${TRANSPORT_WORDS[transportBetween(source, target)]}`);
  say(`keys       ${missing} to make in the next token`);
  say(`versions   ${versions} key versions, ${copied} copied`);
  if (recordedNext !== undefined && missing === 0)
    say(`replicas   ${replicas} running, ${lacking} without the next token's keys`);
  say('nothing was changed');
}

/**
 * Moves all key versions to the next token. Throws Error, in words for the operator; running it
 * again then continues.
 */
export async function migrateToken(parts: MigrationParts): Promise<void> {
  if (!(await lockMigration(parts.owner)))
    throw new Error('cannot move key versions: another command is already moving them');
  const { say } = parts;
  const situation = await look(parts);
  if ('former' in situation) {
    if (!(await hasStale(parts))) return say(`${MOVED}; ${NOTHING_LEFT}`);
    if (situation.former === undefined)
      throw new TokenRefused(
        `cannot seal records again: key versions have not moved from the token ${tokenInWords(situation.left)} of KEYWARD_HSM_*`,
      );
    say(`continuing after the switch: ${MOVED}`);
    return resealRecords(parts, situation.former);
  }
  {
    using migration = await Migration.begin(parts, situation);
    await migration.run();
  }
  await resealRecords(parts, situation.environment.currentToken);
  say(
    'restart the services one by one, with KEYWARD_HSM_* naming that token and without KEYWARD_NEXT_HSM_*',
  );
}

/**
 * Has what former seal keys vouch for vouched for by the current one: verified in the token that
 * was left, sealed in the one that is current. Whatever of it a service does meanwhile is as good.
 */
async function resealRecords(parts: MigrationParts, former: TokenRecord): Promise<void> {
  const { owner, current: from, next: to, say } = parts;
  const { currentToken, environmentId, tokens } = await readEnvironmentAsOwner(owner);
  const left = tokens.find(({ tokenId }) => tokenId === former.tokenId) ?? former;
  const objects = await selectTokenObjects(owner.query);
  const settingsOf = ({ tokenId, profile }: TokenRecord) => ({
    environmentId,
    profile: profile as TokenProfile,
    objects: tokenObjectsOf(objects.filter((each) => each.tokenId === tokenId)),
  });
  const corrupt: string[] = [];
  const { resealed } = await withRecordAgent(settingsOf(left), from, (source) =>
    withRecordAgent(settingsOf(currentToken), to, async (target) => {
      const set = await findTokenKeySet({ query: owner.query });
      await operatorSealer(target, target).verify(set);
      return resealAll(parts.sealedRecords, {
        transact: (work) => owner.transaction(() => work(owner.query)),
        verify: source.verify,
        // The agent of one token has no key of the other's.
        seal: ({ sealKeyId, kind, items }) =>
          target.seal({ sealKeyId, kind, contents: items.map(({ content }) => content) }),
        isCurrentSealKey: async (sealKeyId) => sealKeyId === set?.sealKeyId,
        mayGoOn: () => Promise.resolve(true),
        onCorrupt: (resource) => corrupt.push(resource),
        evenIfPaused: true,
      });
    }),
  );
  say(`sealed the records of ${resealed} keys and policies again`);
  if (corrupt.length > 0)
    sayNames(
      say,
      `${corrupt.length} keys and policies failed verification and were not sealed again:`,
      corrupt,
    );
}

async function hasStale({ owner, sealedRecords }: MigrationParts): Promise<boolean> {
  for (const records of sealedRecords)
    if ((await records.findFormer(owner.query)).length > 0) return true;
  return false;
}

function sayNames(say: MigrationParts['say'], head: string, names: readonly string[]): void {
  say(head);
  for (const name of names.slice(0, NAMED)) say(`  ${name}`);
  if (names.length > NAMED) say(`  and ${names.length - NAMED} more`);
}

/** One run of the command. */
class Migration implements Disposable {
  readonly #parts: MigrationParts;
  readonly #operator: { readonly caller: string; readonly method: string };
  readonly #environment: EnvironmentRecord;
  readonly #next: TokenRecord;
  readonly #copies: KeyVersionCopies;

  private constructor(parts: MigrationParts, environment: EnvironmentRecord, next: TokenRecord) {
    this.#parts = parts;
    this.#operator = operatorOf(parts);
    this.#environment = environment;
    this.#next = next;
    this.#copies = new KeyVersionCopies(parts, environment, next);
  }

  /** Records the next token, unless it is. */
  static async begin(parts: MigrationParts, situation: Situation): Promise<Migration> {
    const { owner, next: to, say } = parts;
    const { environment, current, next } = situation;
    if (environment.currentToken.label === null)
      await withCurrentSealer(parts, (sealer) => describeCurrentToken(owner, sealer, current));
    if (situation.recordedNext === undefined) {
      const profile = await probeToken({ environmentId: environment.environmentId }, to);
      const { label, serialNumber } = next;
      await withCurrentSealer(parts, (sealer) =>
        recordNextToken(owner, operatorOf(parts), sealer, { label, serialNumber, profile }),
      );
      say(`the next token is ${tokenInWords(next)}`);
    } else say(`continuing the move to ${tokenInWords(next)}`);
    const { tokens } = await readEnvironmentAsOwner(owner);
    const recorded = tokens.find(({ state }) => state === 'NEXT');
    if (recorded === undefined)
      throw new Error('cannot move key versions: the next token is no longer recorded');
    return new Migration(parts, environment, recorded);
  }

  async run(): Promise<void> {
    const { say, leaveBehind } = this.#parts;
    for (;;) {
      await this.#makeKeys();
      await this.#copies.open();
      const corrupt = await this.#copies.copyAll();
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

  /**
   * Makes what the next token lacks, each recorded before. What was cut off is used if it is there,
   * else made anew.
   */
  async #makeKeys(): Promise<void> {
    const { owner, next, say } = this.#parts;
    const { environmentId } = this.#environment;
    const { tokenId } = this.#next;
    await this.#settleCutOff();
    const profile = this.#next.profile as TokenProfile;
    const missing = await missingObjects(owner, await objectsIn(owner, tokenId));
    if (missing.length === 0) return;
    const objects = missing.map(
      (each): NextObject => ({ ...each, tokenId, objectId: newId<AnyId>() }),
    );
    await withCurrentSealer(this.#parts, async (sealer) => {
      for (const object of objects) await recordNextObject(owner, this.#operator, sealer, object);
    });
    // Agents that start meanwhile must know of them; once they are there, all must look.
    await announce(owner, tokenId);
    for (const object of objects) {
      const { role, objectId } = object;
      await createTokenKey({ environmentId, profile, role, objectId }, next);
      await this.#endNextObject(object, 'CREATED');
      say(`made the ${role} key ${objectId} of ${formatTenantName(object)}`);
    }
    await announce(owner, tokenId);
  }

  async #settleCutOff(): Promise<void> {
    const { owner, next } = this.#parts;
    const { environmentId } = this.#environment;
    const cutOff = (await objectsIn(owner, this.#next.tokenId)).filter(
      ({ state }) => state === 'CREATING',
    );
    if (cutOff.length === 0) return;
    const { objects } = await surveyToken({ environmentId, objects: tokenObjectsOf(cutOff) }, next);
    for (const [index, object] of cutOff.entries()) {
      const isThere = objects[index]?.condition === 'found';
      // Under an id of its own: whoever was cut off may yet make the other.
      await this.#endNextObject(object, isThere ? 'CREATED' : 'ABANDONED');
    }
    await announce(owner, this.#next.tokenId);
  }

  #endNextObject(object: NextObject, state: 'CREATED' | 'ABANDONED'): Promise<void> {
    return withCurrentSealer(this.#parts, (sealer) =>
      endNextObject(this.#parts.owner, this.#operator, sealer, object, state),
    );
  }

  /**
   * Waits until every replica that runs holds the next token's keys. Returns whether it had to
   * wait.
   */
  async #waitForReplicas(): Promise<boolean> {
    const { owner, say } = this.#parts;
    let said = '';
    for (;;) {
      const { replicas, lacking } = await countLacking(owner, this.#next.tokenId);
      if (lacking === 0) return said !== '';
      const line = `waiting for ${lacking} of ${replicas} replicas to hold the next token's keys: restart them one by one with KEYWARD_NEXT_HSM_*; you may stop this command and run it again`;
      if (line !== said) say(line);
      said = line;
      await delay(LOOK_MS);
    }
  }

  /** What the current token's seal key vouches for until then, the next one's does after it. */
  async #switch() {
    const { owner, next } = this.#parts;
    const { environmentId } = this.#environment;
    const { tokenId } = this.#next;
    const profile = this.#next.profile as TokenProfile;
    const objects = tokenObjectsOf(await objectsIn(owner, tokenId));
    return withCurrentAgent(this.#parts, (source) =>
      withRecordAgent({ environmentId, profile, objects }, next, (target) =>
        this.#switchBetween(operatorSealer(source, target)),
      ),
    );
  }

  #switchBetween(sealer: TokenKeySealer) {
    const { owner, leaveBehind } = this.#parts;
    return switchTokens(owner, this.#operator, sealer, {
      from: this.#environment.currentToken.tokenId,
      to: this.#next.tokenId,
      mostLeft: MOST_LEFT,
      leaveBehind,
      copy: async (left) => {
        const corrupt = await this.#copies.copy(left);
        if (corrupt.length > 0) this.#report(corrupt);
        return corrupt;
      },
    });
  }

  #report(corrupt: readonly KeyVersionToRewrap[]): void {
    sayNames(
      this.#parts.say,
      `${corrupt.length} key versions failed verification and were not copied:`,
      corrupt.map((version) => formatKeyVersionName(version, version.record.version)),
    );
  }

  [Symbol.dispose](): void {
    this.#copies[Symbol.dispose]();
  }
}

const MOVED = 'the next token is already the current one';
const NOTHING_LEFT = 'there is nothing to do';
const REFUSED =
  'cannot switch to the next token: some key versions failed verification; repair or destroy them, or give --leave-behind; all others are copied';

/** An agent that knows what is recorded of the token that key versions are in. */
async function withCurrentAgent<T>(
  { owner, current }: MigrationParts,
  work: (agent: RecordAgent) => Promise<T>,
): Promise<T> {
  const { environmentId, tokenProfile, tokenObjects } = await readEnvironmentAsOwner(owner);
  const profile = tokenProfile as TokenProfile;
  const objects = tokenObjectsOf(tokenObjects);
  return withRecordAgent({ environmentId, profile, objects }, current, work);
}

function withCurrentSealer<T>(
  parts: MigrationParts,
  work: (sealer: TokenKeySealer) => Promise<T>,
): Promise<T> {
  return withCurrentAgent(parts, (agent) => work(operatorSealer(agent, agent)));
}

function operatorOf({ caller }: MigrationParts) {
  return { caller, method: 'keyward-server token migrate' };
}
