/**
 * The schema, walked: every column of every table is under a seal, or stands here with the reason
 * why it needs none. SECURITY.md has the same list.
 */
import assert from 'node:assert/strict';
import { readFile, writeFile } from 'node:fs/promises';
import { after, before, it } from 'node:test';
import { migratedDatabase, type TestDatabase } from './database.ts';

const FILE = new URL('../../SECURITY.md', import.meta.url);
const HEAD = '**Columns that are under no seal**, and why:\n\n';

/** What a kind of seal covers, by table; with the columns that the seal itself is kept in. */
const SEALED: Readonly<Record<string, Readonly<Record<string, string>>>> = {
  'key version': {
    key_versions: `tenant_id key_id version algorithm root_key_id wrap wrapped check_value seal_key_id seal`,
    moved_key_versions: `tenant_id key_id version root_key_id wrap wrapped check_value seal_key_id seal`,
  },
  'key state': {
    keys: `tenant_id key_id name state revision destroy_at primary_version rotation_period_seconds
      next_rotation_at rotation_usage_limit maintenance_paused epoch_max_messages
      epoch_max_age_seconds state_seal_key_id state_seal`,
    key_versions: 'state destroy_at',
  },
  policy: {
    access_policies: 'tenant_id revision seal_key_id seal',
    role_bindings: `tenant_id binding_id member_kind member role key_pattern all_tenants expires_at conditions
      overrides_separation description created_at creator`,
    roles: 'tenant_id role_id permissions description created_at creator',
  },
  tenant: {
    tenants: `tenant_id name state revision dedicated_root_key created_at shred_at shredded_at
      quota_calls_per_second quota_keys quota_stored_data_keys approval_rules_revision
      seal_key_id seal`,
  },
  'token keys': {
    token_key_seals: 'revision seal_key_id seal',
    token_objects: 'tenant_id object_id token_id role state is_current',
    tokens: 'token_id state label serial_number profile',
  },
  maintenance: { maintenance: 'paused changed_at caller revision seal_key_id seal' },
  canaries: {
    canary_seals: 'revision digests seal_key_id seal',
    canaries: 'tenant_id canary_id uid key_id version record',
    suspensions: `tenant_id suspension_id caller canary_id request_id description created_at
      creator`,
  },
  /** The columns beside `content` count only where they agree with it. */
  'pending operation': {
    pending_operations: `tenant_id operation_id revision state method requester request_digest request
      preview created_at expires_at content seal_key_id seal`,
  },
  decision: { operation_decisions: 'tenant_id operation_id approver content seal_key_id seal' },
  'approval rules': { approval_rules: 'tenant_id revision content seal_key_id seal' },
  passkey: {
    passkeys: 'credential_id principal is_removed revision content seal_key_id seal',
  },
  'silenced alerts': { alert_silences: 'revision content seal_key_id seal' },
  /** As additional data of the ciphertext, which opens with these and no others. */
  ciphertext: {
    data_keys: 'tenant_id key_id data_key_id context_digest ciphertext version',
  },
  /** Hashed into the Merkle tree, of which checkpoints are signed. */
  'audit log': {
    audit_log: 'leaf_index leaf',
    audit_log_0: 'leaf_index leaf',
    audit_tiles: 'level tile_index hashes',
    audit_checkpoints: 'tree_size generation root_hash note public_key cosignatures',
    audit_generations: 'generation leaf',
  },
  /** By the replica that wrote it, under a key that the HSM derives for it. */
  'row of the inbox': {
    audit_inbox: `tenant_id entry_id leaves entry_count replica_id stream row_number mask_key_id mac`,
  },
  /** Under a key that the HSM derives, together with the size of the tree. */
  'memory of writers': { audit_writers: 'content mask_key_id mac' },
  /** Under a key that the HSM derives for all replicas. */
  'kept answer': {
    request_ids: 'tenant_id caller method request_id fingerprint effect mask_key_id mac',
  },
  /** Goes into every seal, so that with another nothing verifies. */
  'every seal': { environment: 'environment_id' },
};

interface Reason {
  readonly tables: Readonly<Record<string, string>>;
  readonly because: string;
}

/** What is under no seal. */
const UNSEALED: readonly Reason[] = [
  {
    tables: {
      keys: 'description labels created_at destroyed_at',
      key_versions: 'created_at revision destroyed_at',
      tokens: 'tenant_id created_at activated_at retired_at',
      token_objects: 'created_at caller activated_at retired_at destroyed_at job_id',
      data_keys: 'created_at rewrapped_at',
      environment: 'created_at',
    },
    because:
      'They are shown, and nothing is decided by them. A writer of the database can have callers ' +
      'shown others.',
  },
  {
    tables: { token_objects: 'attempt_until' },
    because:
      'It says when another replica takes up an attempt at making a token key. A writer can hasten ' +
      'or delay that; nothing comes under a key before it is sealed as current.',
  },
  {
    tables: { data_keys: 'name' },
    because:
      'A writer can swap two stored data keys of one key and one context as a whole: distinct ' +
      'contexts rule it out.',
  },
  {
    tables: {
      keys: 'usage_limit_reached_at',
      key_version_usage:
        'tenant_id key_id version encrypt_operations last_encrypt_at decrypt_operations last_decrypt_at',
      usage_reports: 'tenant_id replica_id sequence complete_at',
    },
    because:
      'Counts of use come from replicas many times a second. A writer can hasten or delay the ' +
      'rotation of a key that has a usage limit; its period holds.',
  },
  {
    tables: {
      caller_hours: 'caller hour encrypts decrypts others failures new_keys',
      caller_keys: 'caller key last_used_at',
    },
    because:
      'They are what callers’ later hours are compared with. A writer can hide what is unusual, or ' +
      'make a caller look unusual; nothing is allowed or refused by them.',
  },
  {
    tables: {
      rewrap_jobs: `tenant_id job_id scope scope_tenant_id scope_key_id cause caller state created_at ended_at planned
        frontier_tenant_id frontier_key_id frontier_name ranges total done failed kind`,
      rewrap_ranges: `tenant_id job_id range key_tenant_id key_id after_name until_name total done failed finished
        fence leased_until`,
      rewrap_failures: 'tenant_id job_id resource reason at',
    },
    because:
      'They say where re-wrapping stands. A writer can start, stop and hide it; each row that it ' +
      'writes was verified, comes under what is sealed as current, and keeps its bytes, and no key ' +
      'is destroyed while anything is under it.',
  },
  {
    tables: {
      rotations:
        'tenant_id key_id to_version from_version cause caller rotated_at duration_ms job_id',
    },
    because: 'The history of rotations is shown. The audit log has it as well.',
  },
  {
    tables: {
      replicas:
        'tenant_id replica_id seen_at held name release started_at agents agents_ready problems',
      changes: 'tenant_id change_id xid kind subject_id at',
    },
    because:
      'They say which replicas run, what these report of themselves, and what has changed. A ' +
      'writer can hold that back, have a token key made current that a replica has not found ' +
      'yet, and have `keyward status` show replicas as they are not.',
  },
  {
    tables: { request_ids: 'reference at' },
    because:
      'A row is kept as long as `at` says; `reference` is not read. A writer can take rows away, ' +
      'and so have a repeated request take effect again, or put rows in, and so have a request ' +
      'fail; what a repeated request is answered with verifies.',
  },
  {
    tables: { passkeys: 'tenant_id' },
    because:
      'It is that of the tenant `system` in every row, and nothing is found by it: a credential id ' +
      'has one row.',
  },
  {
    tables: { tenant_counts: 'tenant_id kind part count' },
    because:
      'They count what quotas limit. A writer can have a tenant exceed its quotas, or reach them.',
  },
  {
    tables: { moved_key_versions: 'source_seal' },
    because:
      'It says of which row a copy for another token is. A copy that is put in the place of another ' +
      'row does not verify there.',
  },
  {
    tables: {
      token_key_seals: 'tenant_id',
      maintenance: 'tenant_id',
      alert_silences: 'tenant_id',
      canary_seals: 'tenant_id',
    },
    because: 'These tables have one row, of the tenant `system`.',
  },
  {
    tables: {
      audit_inbox: 'group_number',
      audit_state: '*',
      audit_writers: 'singleton',
      audit_log: 'tenant_id entry_id',
      audit_log_0: 'tenant_id entry_id',
      audit_checkpoints: 'signed_at',
    },
    because:
      'They say in which order entries are taken, who may extend the log, and where entries are ' +
      'found in it. A writer can keep the log from being extended, and hide leaves from a tenant’s ' +
      'list: an export has them.',
  },
  {
    tables: { environment: 'singleton token_profile mode' },
    because:
      'The mode keeps settings of development from a production database, and the other way round; ' +
      'the profile is a copy that is not read. A writer can do no more with them than stop services.',
  },
  {
    tables: { alerts: '*', alert_deliveries: '*' },
    because:
      'They say which alerts there are, and whom they are to reach. A writer can keep an alert from ' +
      'being delivered, and have one delivered that there is not. Its line in the log does not ' +
      'depend on them.',
  },
  {
    tables: {
      pending_operations: 'ended_at error_reason error_message attempt_after',
      operation_decisions: 'credential_id client_data_json authenticator_data signature public_key',
    },
    because:
      'They say how an operation ended, when another replica takes it up, and what was signed: they ' +
      'are shown, and the audit log has them as well. A writer can hasten or delay an attempt; ' +
      'whether an operation is performed depends on what agents sealed, and it takes effect once.',
  },
  {
    tables: { schema_releases: 'migration oldest_release applied_at' },
    because:
      'They say which releases may run on the schema. A writer of the schema can do anything to it ' +
      'anyway.',
  },
];

let database: TestDatabase;
/** Every column, by table. */
let columns: ReadonlyMap<string, readonly string[]>;

before(async () => {
  database = await migratedDatabase();
  const rows = await database.sql<{ table: string; column: string }>(
    `SELECT c.relname AS table, a.attname AS column FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid
     WHERE c.relnamespace = 'public'::regnamespace AND c.relkind IN ('r', 'p') AND a.attnum > 0 AND NOT a.attisdropped
       AND c.relname <> 'schema_migrations'
     ORDER BY c.relname, a.attnum`,
  );
  columns = new Map(
    [...Map.groupBy(rows, ({ table }) => table)].map(([table, own]) => [
      table,
      own.map(({ column }) => column),
    ]),
  );
});

after(() => database[Symbol.asyncDispose]());

const words = (text: string) => text.split(/\s+/).filter((word) => word !== '');

/** `table.column` of all that are listed, as often as they are; `*` is every column. */
function listed(tables: Readonly<Record<string, string>>): string[] {
  return Object.entries(tables).flatMap(([table, names]) =>
    (names === '*' ? (columns.get(table) ?? []) : words(names)).map((name) => `${table}.${name}`),
  );
}

it('every column of every table is under a seal, or stands here with its reason', () => {
  const sealed = new Set(Object.values(SEALED).flatMap(listed));
  const unsealed = UNSEALED.flatMap(({ tables }) => listed(tables));
  const all = [...columns].flatMap(([table, own]) => own.map((column) => `${table}.${column}`));
  assert.ok(all.length > 150, `${all.length}`);
  assert.deepEqual(
    all.filter((column) => !sealed.has(column) && !unsealed.includes(column)),
    [],
    'under no seal, and without a reason',
  );
  assert.deepEqual(
    unsealed.filter((column) => !all.includes(column)),
    [],
    'there is no such column',
  );
  assert.deepEqual(
    unsealed.filter((column, index) => sealed.has(column) || unsealed.indexOf(column) !== index),
    [],
    'listed twice',
  );
});

it('SECURITY.md has the same list (UPDATE=1 writes it)', async () => {
  const page = await readFile(FILE, 'utf8');
  const [start, end] = [page.indexOf(HEAD), page.indexOf('\n\n', page.indexOf(HEAD) + HEAD.length)];
  assert.ok(page.includes(HEAD) && end > start, HEAD);
  const actual = page.slice(start + HEAD.length, end);
  const expected = UNSEALED.map(entry).join('\n');
  if (process.env['UPDATE'] === '1')
    await writeFile(FILE, page.slice(0, start + HEAD.length) + expected + page.slice(end));
  else assert.equal(actual, expected);
});

/** An entry of the page. */
function entry({ tables, because }: Reason): string {
  const parts = Object.entries(tables).map(([table, names]) =>
    names === '*' || (columns.get(table) ?? []).length === words(names).length
      ? `all of \`${table}\``
      : `\`${table}\` (${words(names)
          .map((name) => `\`${name}\``)
          .join(', ')})`,
  );
  return wrapped(`- ${parts.join('; ')}: ${because}`);
}

/** The text in lines of at most 100 columns, as an item of a list. */
function wrapped(text: string): string {
  const lines = [''];
  for (const word of text.split(' ')) {
    const line = lines.at(-1) ?? '';
    if (line !== '' && `${line} ${word}`.length > 100) lines.push(`  ${word}`);
    else lines[lines.length - 1] = line === '' ? word : `${line} ${word}`;
  }
  return lines.join('\n');
}
