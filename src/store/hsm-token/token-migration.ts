/**
 * Moving to another token, as rows: the next token and its objects, and the switch.
 *
 * By the owner's role alone. Invariants: all rows and the tokens' states change in one transaction,
 * while nothing new can come under the keys that are left; each change of a token's or object's
 * state brings its audit entry, and comes under the seal of all of them. The copies that take the
 * rows' place are `moved-key-versions.ts`'s. Knows no PIN and no key.
 */
import { randomUUID } from 'node:crypto';
import type { AnyId, TenantId, TokenId } from '../../ids.ts';
import { formatTenantName, formatTokenKeyName, SYSTEM_TENANT } from '../../names.ts';
import { insertAuditEntry } from '../audit/audit.ts';
import { isRecent } from '../core/leases.ts';
import type { OwnerConnection } from '../core/owner.ts';
import type { Changed } from '../core/transaction.ts';
import type { KeyVersionToRewrap } from '../lifecycle/rewrapped-key-versions.ts';
import { countNotUnder, findUncopied, placeCopies, removeCopies } from './moved-key-versions.ts';
import { SILENCE } from './replicas.ts';
import type { TokenKeyDraft, TokenKeysTx } from './token-key-draft.ts';
import { changeTokenKeys, type TokenKeySealer } from './token-key-set.ts';
import { SYSTEM_ID, type TokenObjectRole, type TokenObjectState } from './token-objects.ts';

/** Who moves, by which command, for the audit log. */
interface Operator {
  readonly caller: string;
  readonly method: string;
}

/** One command at a time, in the whole database. */
const LOCK = "hashtextextended('keyward token migrate', 0)";
/** How long the switch waits for those who are writing a version, before it is tried anew. */
const LOCK_WAIT = '10s';

/** Returns whether no other command is moving; none begins until this connection ends. */
export async function lockMigration(owner: OwnerConnection): Promise<boolean> {
  const [row] = await owner.query<{ locked: boolean }>(
    `SELECT pg_try_advisory_lock(${LOCK}) AS locked`,
  );
  return row?.locked === true;
}

/** Records the token to move to. */
export function recordNextToken(
  owner: OwnerConnection,
  operator: Operator,
  sealer: TokenKeySealer,
  token: { readonly label: string; readonly serialNumber: string; readonly profile: unknown },
): Promise<void> {
  return changing(owner, sealer, async ({ keys }) => {
    const [row] = await owner.query<{ tenant_id: TenantId; token_id: TokenId }>(
      `INSERT INTO tokens (tenant_id, state, label, serial_number, profile)
       VALUES (${SYSTEM_ID}, 'NEXT', $1, $2, $3) RETURNING tenant_id, token_id`,
      [token.label, token.serialNumber, JSON.stringify(token.profile)],
    );
    if (row === undefined)
      throw new Error('cannot move key versions: the database has lost the tenant system');
    keys.putToken({ ...token, tokenId: row.token_id, state: 'NEXT' });
    const after = { tokenId: row.token_id, state: 'NEXT', label: token.label };
    await insertAudit(owner, operator, row.tenant_id, tokenName(row.token_id), {
      kind: 'token',
      after,
    });
  });
}

/** Notes which token the current one is, where no command has before. */
export function describeCurrentToken(
  owner: OwnerConnection,
  sealer: TokenKeySealer,
  { label, serialNumber }: { readonly label: string; readonly serialNumber: string },
): Promise<void> {
  return changing(owner, sealer, async ({ keys }) => {
    const current = keys.tokens.find(({ state }) => state === 'CURRENT');
    if (current === undefined || current.label !== null) return;
    await owner.query('UPDATE tokens SET label = $1, serial_number = $2 WHERE token_id = $3', [
      label,
      serialNumber,
      current.tokenId,
    ]);
    keys.putToken({ ...current, label, serialNumber });
  });
}

/** A transaction in which token keys and tokens may be changed. */
function changing<T>(
  owner: OwnerConnection,
  sealer: TokenKeySealer,
  change: (tx: TokenKeysTx) => Promise<T>,
): Promise<T> {
  return owner.transaction(() => changeTokenKeys({ query: owner.query }, sealer, change));
}

/** Tenants with root keys of their own, and `system`. */
export function findRootOwners(
  owner: OwnerConnection,
): Promise<{ readonly tenantId: TenantId; readonly tenant: string }[]> {
  return owner.query(
    `SELECT tenant_id AS "tenantId",
       CASE WHEN tenant_id = ${SYSTEM_ID} THEN '${SYSTEM_TENANT}' ELSE name END AS tenant FROM tenants
     WHERE tenant_id = ${SYSTEM_ID} OR (dedicated_root_key AND state <> 'SHREDDED')
     ORDER BY created_at, name`,
  );
}

/** An object of the next token. */
export interface NextObject {
  readonly tenantId: TenantId;
  readonly tenant: string;
  readonly tokenId: TokenId;
  readonly objectId: AnyId;
  readonly role: TokenObjectRole;
}

/** Records one that is to be made. */
export function recordNextObject(
  owner: OwnerConnection,
  operator: Operator,
  sealer: TokenKeySealer,
  object: NextObject,
): Promise<void> {
  return changing(owner, sealer, async ({ keys }) => {
    keys.addObject({ ...object, state: 'CREATING' });
    await owner.query(
      `INSERT INTO token_objects (tenant_id, object_id, token_id, role, is_current, state, caller, attempt_until)
       VALUES ($1, $2, $3, $4, false, 'CREATING', $5, clock_timestamp())`,
      [object.tenantId, object.objectId, object.tokenId, object.role, operator.caller],
    );
    await insertAudit(
      owner,
      operator,
      object.tenantId,
      objectName(object),
      tokenKeyChanged(object, 'CREATING'),
    );
  });
}

/** Says what became of its making. */
export function endNextObject(
  owner: OwnerConnection,
  operator: Operator,
  sealer: TokenKeySealer,
  object: NextObject,
  state: 'CREATED' | 'ABANDONED',
): Promise<void> {
  return changing(owner, sealer, async ({ keys }) => {
    const ended = await owner.query(
      `UPDATE token_objects SET state = $2, attempt_until = NULL
       WHERE object_id = $1 AND state = 'CREATING' RETURNING 1`,
      [object.objectId, state],
    );
    if (ended.length > 0) keys.moveObject(object.objectId, state);
    await insertAudit(
      owner,
      operator,
      object.tenantId,
      objectName(object),
      tokenKeyChanged(object, state),
    );
  });
}

/** How many replicas run, and how many of them lack root or seal keys of the token. */
export async function countLacking(
  owner: OwnerConnection,
  tokenId: TokenId,
): Promise<{ readonly replicas: number; readonly lacking: number }> {
  const [row] = await owner.query<{ replicas: number; lacking: number }>(
    `SELECT count(*)::integer AS replicas, count(*) FILTER (WHERE NOT held @> ARRAY(
         SELECT o.object_id FROM token_objects o JOIN tenants t USING (tenant_id) WHERE o.token_id = $1
           AND o.role IN ('root', 'seal') AND o.state = 'CREATED' AND t.state <> 'SHREDDED'))::integer AS lacking
     FROM replicas WHERE ${isRecent('seen_at', SILENCE)}`,
    [tokenId],
  );
  return row ?? { replicas: 0, lacking: 0 };
}

interface Switch {
  readonly from: TokenId;
  readonly to: TokenId;
  /** At most so many versions without a copy are copied while everybody waits. */
  readonly mostLeft: number;
  /** Versions that do not verify stay under the keys of the token that is left. */
  readonly leaveBehind: boolean;
  /** Copies them, and returns those that do not verify. */
  copy(left: readonly KeyVersionToRewrap[]): Promise<readonly KeyVersionToRewrap[]>;
}

/**
 * `switched`, or why not, nothing being changed: `behind` when versions wait to be copied or keys
 * of the next token to be made, `lacking` when a replica doesn't hold those, `corrupt` when a
 * version doesn't verify and mustn't be left behind.
 */
type SwitchOutcome = 'switched' | 'behind' | 'lacking' | 'corrupt';

/**
 * Puts the copies in the rows' place, and the next token in the current one's; what is recorded of
 * both is sealed by the next one's seal key from then on. Throws what Postgres, `sealer` and `copy`
 * throw.
 */
export async function switchTokens(
  owner: OwnerConnection,
  operator: Operator,
  sealer: TokenKeySealer,
  wanted: Switch,
): Promise<SwitchOutcome> {
  let outcome: SwitchOutcome = 'behind';
  await owner
    .transaction(async () => {
      await owner.query(`SET LOCAL lock_timeout = '${LOCK_WAIT}'`);
      await changeTokenKeys({ query: owner.query }, sealer, async ({ keys }) => {
        outcome = await trySwitch(owner, operator, keys, wanted);
        if (outcome !== 'switched') throw new Undo();
      });
    })
    .catch((error: unknown) => {
      const { code } = error as { code?: unknown };
      if (!(error instanceof Undo) && !LOCKED.includes(String(code))) throw error;
    });
  return outcome;
}

/** SQLSTATEs: a lock wasn't to be had in time, or everybody waited for everybody. */
const LOCKED = ['55P03', '40P01'];

/** Has a transaction undone that has nothing wrong with it. */
class Undo extends Error {}

async function trySwitch(
  owner: OwnerConnection,
  operator: Operator,
  keys: TokenKeyDraft,
  wanted: Switch,
): Promise<SwitchOutcome> {
  const { to } = wanted;
  await holdStill(owner);
  if (await lacksObjects(owner, to)) return 'behind';
  if ((await countLacking(owner, to)).lacking > 0) return 'lacking';
  const left = await findUncopied(owner, to, wanted.mostLeft + 1);
  if (left.length > wanted.mostLeft) return 'behind';
  const corrupt = left.length === 0 ? [] : await wanted.copy(left);
  if (corrupt.length > 0 && !wanted.leaveBehind) return 'corrupt';
  await placeCopies(owner, to);
  if ((await countNotUnder(owner, to)) > corrupt.length) return 'behind';
  await switchObjects(owner, operator, keys, wanted);
  return 'switched';
}

/**
 * From here until the transaction ends no version is made or re-wrapped, and no key of a token made
 * or replaced: whoever does that holds the current keys, or changes their rows. The lock of the
 * whole set, which this transaction has, comes first for everybody.
 */
async function holdStill(owner: OwnerConnection): Promise<void> {
  await owner.query('LOCK TABLE token_objects IN SHARE ROW EXCLUSIVE MODE');
  await owner.query('SELECT 1 FROM token_objects WHERE is_current ORDER BY object_id FOR UPDATE');
  await owner.query('SET LOCAL lock_timeout = 0');
}

/**
 * Whether a key is missing in the next token that whoever has one in the current token must have.
 */
async function lacksObjects(owner: OwnerConnection, to: TokenId): Promise<boolean> {
  const lacking = await owner.query(
    `SELECT 1 FROM token_objects o JOIN tenants t USING (tenant_id)
     WHERE o.is_current AND t.state <> 'SHREDDED' AND NOT EXISTS (SELECT FROM token_objects n
       WHERE n.token_id = $1 AND n.tenant_id = o.tenant_id AND n.role = o.role AND n.state = 'CREATED') LIMIT 1`,
    [to],
  );
  return lacking.length > 0;
}

async function switchObjects(
  owner: OwnerConnection,
  operator: Operator,
  keys: TokenKeyDraft,
  { from, to }: Pick<Switch, 'from' | 'to'>,
): Promise<void> {
  await owner.query(
    `UPDATE token_objects SET is_current = false, attempt_until = NULL,
       state = CASE WHEN is_current THEN 'RETIRED' ELSE 'ABANDONED' END,
       retired_at = CASE WHEN is_current THEN clock_timestamp() END
     WHERE token_id = $1 AND state IN ('CREATING', 'CREATED', 'CURRENT')`,
    [from],
  );
  const activated = await owner.query<Omit<NextObject, 'tokenId'>>(
    `UPDATE token_objects o SET is_current = true, state = 'CURRENT', activated_at = clock_timestamp() FROM tenants t
     WHERE o.token_id = $1 AND o.state = 'CREATED' AND t.tenant_id = o.tenant_id AND t.state <> 'SHREDDED'
     RETURNING o.tenant_id AS "tenantId", t.name AS tenant, o.object_id AS "objectId", o.role`,
    [to],
  );
  // A tenant was shredded meanwhile, or a key of its own came too late to be of use.
  await owner.query(
    `UPDATE token_objects SET state = 'ABANDONED', attempt_until = NULL
     WHERE token_id = $1 AND state IN ('CREATING', 'CREATED')`,
    [to],
  );
  await owner.query(
    `UPDATE tokens SET state = 'FORMER', retired_at = clock_timestamp() WHERE token_id = $1`,
    [from],
  );
  await owner.query(
    `UPDATE tokens SET state = 'CURRENT', activated_at = clock_timestamp() WHERE token_id = $1`,
    [to],
  );
  await owner.query(
    'UPDATE environment SET token_profile = (SELECT profile FROM tokens WHERE token_id = $1)',
    [to],
  );
  draftSwitch(keys, { from, to }, new Set(activated.map(({ objectId }) => objectId)));
  await removeCopies(owner);
  const [system] = await owner.query<{ tenantId: TenantId }>(`SELECT ${SYSTEM_ID} AS "tenantId"`);
  if (system === undefined)
    throw new Error('cannot move key versions: the database has lost the tenant system');
  for (const [tokenId, state] of [
    [from, 'FORMER'],
    [to, 'CURRENT'],
  ] as const) {
    const changed = { kind: 'token', after: { tokenId, state } } as const;
    await insertAudit(owner, operator, system.tenantId, tokenName(tokenId), changed);
  }
  for (const object of activated)
    await insertAudit(
      owner,
      operator,
      object.tenantId,
      objectName(object),
      tokenKeyChanged(object, 'CURRENT'),
    );
  await announce(owner, to, 'versions');
  await announce(owner, to);
}

function tokenKeyChanged(
  { objectId, role }: Pick<NextObject, 'objectId' | 'role'>,
  state: TokenObjectState,
): Changed {
  return { kind: 'tokenKey', after: { objectId, role, state } };
}

/** What the statements of the switch have made of each token and object. */
function draftSwitch(
  keys: TokenKeyDraft,
  { from, to }: Pick<Switch, 'from' | 'to'>,
  activated: ReadonlySet<AnyId>,
): void {
  for (const { objectId, tokenId, state } of keys.objects) {
    const isPending = state === 'CREATING' || state === 'CREATED';
    if (tokenId === from && state === 'CURRENT') keys.moveObject(objectId, 'RETIRED');
    else if (tokenId === from && isPending) keys.moveObject(objectId, 'ABANDONED');
    else if (tokenId === to && isPending)
      keys.moveObject(objectId, activated.has(objectId) ? 'CURRENT' : 'ABANDONED');
  }
  for (const token of keys.tokens) {
    if (token.tokenId === from) keys.putToken({ ...token, state: 'FORMER' });
    if (token.tokenId === to) keys.putToken({ ...token, state: 'CURRENT' });
  }
}

function tokenName(tokenId: TokenId): string {
  return `${formatTenantName({ tenant: SYSTEM_TENANT })}/tokens/${tokenId}`;
}

function objectName({ tenant, objectId }: Pick<NextObject, 'tenant' | 'objectId'>): string {
  return formatTokenKeyName({ tenant }, objectId);
}

async function insertAudit(
  owner: OwnerConnection,
  { caller, method }: Operator,
  tenantId: TenantId,
  resource: string,
  changed: Changed,
): Promise<void> {
  const call = { id: randomUUID(), caller, method };
  const entry = { entryId: randomUUID(), call, resource, outcome: 'OK', changed };
  await insertAuditEntry(owner, tenantId, entry);
}

/** Every replica hears that something is another with tokens' objects, or with key versions. */
export async function announce(
  owner: OwnerConnection,
  subjectId: AnyId,
  kind: 'token' | 'versions' = 'token',
): Promise<void> {
  await owner.query(
    `INSERT INTO changes (tenant_id, kind, subject_id) VALUES (${SYSTEM_ID}, $2, $1)`,
    [subjectId, kind],
  );
}
