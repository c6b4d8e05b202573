/**
 * The one table of alerts, src/signals/alerts.ts: docs/alerts.md has what it has, nothing else
 * raises alerts, and each is made to happen by a test.
 */
import assert from 'node:assert/strict';
import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { paragraph } from '../../bench/markdown.ts';
import { ALERTS, type AlertId, type Severity } from '../../src/signals/alerts.ts';
import { assertWritten } from '../support/document.ts';

const ROOT = join(import.meta.dirname, '..', '..');
const TABLE = 'src/signals/alerts.ts';

/** The test that makes each alert happen: its file, and a part of its title. */
const MADE_BY: Readonly<Record<AlertId, readonly [file: string, title: string]>> = {
  'stored-row-corrupt': [
    'test/keyring/rewrap.test.ts',
    'since its version’s row does not verify says so, and is done once that is put right',
  ],
  'key-state-corrupt': [
    'test/keyring/sealed-states.test.ts',
    'changed in the database, is refused and not obeyed, whoever asks, and nothing else is',
  ],
  'tenant-corrupt': [
    'test/keyring/sealed-tenants.test.ts',
    'names that are swapped lead to no other tenant, on replicas that run and on others',
  ],
  'token-key-corrupt': [
    'test/keyring/sealed-token-keys.test.ts',
    'put back as they were with their seal, they are refused by a replica that remembers',
  ],
  'maintenance-corrupt': [
    'test/keyring/maintenance.test.ts',
    'a writer of the database resumes nothing: a switch that does not verify counts as paused',
  ],
  'policy-corrupt': [
    'test/access/policy-tampering.test.ts',
    'a change to any column of a binding, a role or a seal',
  ],
  'approval-rules-corrupt': [
    'test/approvals/rule-tampering.test.ts',
    'a change to any column of the rules of a tenant fails what is dangerous there',
  ],
  'decryption-failures': [
    'test/calls/conditions.test.ts',
    'a caller whose ciphertexts do not open again and again is named',
  ],
  'sensitive-denied': [
    'test/calls/conditions.test.ts',
    'a caller that asks for what is dangerous and may not is named',
  ],
  'quota-exhausted': [
    'test/calls/conditions.test.ts',
    'a quota that is used up is named, with its tenant',
  ],
  'clock-off': [
    'test/calls/conditions.test.ts',
    'a clock that differs from the database’s is reported',
  ],
  'certificate-expiring': [
    'test/calls/conditions.test.ts',
    'a certificate near its end is reported',
  ],
  'rotation-done': ['test/keyring/notices.test.ts', 'a rotation and the job that ends after it'],
  'job-finished': ['test/keyring/notices.test.ts', 'a rotation and the job that ends after it'],
  'destruction-coming': ['test/keyring/notices.test.ts', 'what is destroyed or expires soon'],
  'binding-expiring': ['test/keyring/notices.test.ts', 'what is destroyed or expires soon'],
  'canary-opened': [
    'test/calls/canaries.test.ts',
    'opened by a stolen token, it is reported with the caller’s name',
  ],
  'canaries-corrupt': [
    'test/keyring/sealed-canaries.test.ts',
    'at the age of caches, and has nothing of it',
  ],
  'passkey-corrupt': [
    'test/approvals/passkeys.test.ts',
    'who puts a removed passkey’s old row back is noticed, while it is remembered',
  ],
  'passkey-counter': [
    'test/approvals/passkeys.test.ts',
    'is not registered by a counter that has not grown, which is an alert',
  ],
  'changes-missing': [
    'test/access/withheld-changes.test.ts',
    'a binding that is deleted ends on every replica, also for an open stream, and is named',
  ],
  'row-missing': [
    'test/access/withheld-changes.test.ts',
    'a key’s row that is taken away is named, and so is one that is put back as it was',
  ],
  'seal-corrupt': [
    'test/keyring/token-keys.test.ts',
    'a replaced seal key is destroyed once records are sealed anew',
  ],
  'token-object': [
    'test/hsm/hold.test.ts',
    'is a problem where it is expected, and a refusal where it must be there',
  ],
  'audit-log-contradicted': [
    'test/audit/checkpoints.test.ts',
    'on an older database nothing is signed, which is said, until an operator has the log go on',
  ],
  'audit-entries-waiting': [
    'test/audit/waiting-entries.test.ts',
    'entries that nobody makes leaves of are reported once, and their end too',
  ],
  'audit-inbox': ['test/audit/inbox.test.ts', 'that someone has added is none'],
  'audit-witness-contradicted': [
    'test/audit/witnessing.test.ts',
    'a log that is less than what a witness has cosigned is reported, and signed as before',
  ],
  'audit-witness-silent': [
    'test/audit/witnessing.test.ts',
    'witnesses that do wrong hurt nobody: not callers, not the log, not another witness',
  ],
  'audit-generation-changed': [
    'test/audit/checkpoints.test.ts',
    'on an older database nothing is signed, which is said, until an operator has the log go on',
  ],
  'rotation-overdue': [
    'test/calls/conditions.test.ts',
    'rotations that have been due for hours, and fail, are reported',
  ],
  'job-partial': [
    'test/keyring/rewrap.test.ts',
    'one corrupt row is named, the others are done, and its version is not to be destroyed',
  ],
  'caller-unusual': [
    'test/anomalies/anomalies.test.ts',
    'more failures than ever raise one alert, which names the caller and both numbers',
  ],
  'database-away': [
    'test/alerts/outbox.test.ts',
    'while the database is away an alert is delivered all the same, and recorded afterwards',
  ],
  'hsm-unavailable': [
    'test/alerts/conditions.test.ts',
    'a token that no agent can open is an alert, without the PIN, until one can',
  ],
  'replica-stale': [
    'test/alerts/conditions.test.ts',
    'a replica that does not hear of changes is an alert until it does',
  ],
  'audit-unavailable': [
    'test/alerts/conditions.test.ts',
    'entries that cannot be written are an alert until they can',
  ],
  'checkpoint-not-kept': [
    'test/alerts/conditions.test.ts',
    'what a setting allows and should not stay is an alert, in production',
  ],
  'first-administrator-stands': [
    'test/alerts/conditions.test.ts',
    'what a setting allows and should not stay is an alert, in production',
  ],
  'attribute-waived': [
    'test/keyring/token-status.test.ts',
    'an attribute that the operator waives is WAIVED',
  ],
  'pending-operation-corrupt': [
    'test/approvals/sealed-operations.test.ts',
    'a request that was changed in its row is neither shown, nor decided on, nor performed',
  ],
  'glass-broken': [
    'test/approvals/break-glass.test.ts',
    'puts the operation under the rule for emergencies, and alerts operators',
  ],
  'operation-pending': [
    'test/approvals/pending.test.ts',
    'waits for another person, who approves it, and is done then, once',
  ],
  'silences-corrupt': ['test/alerts/outbox.test.ts', 'a writer of the database silences nothing'],
  'alert-undelivered': ['test/alerts/outbox.test.ts', 'one that does not take it is an alert'],
  'alerts-too-many': [
    'test/alerts/outbox.test.ts',
    'of one kind of alert a hundred are delivered within an hour, and then what that means',
  ],
  'test-alert': [
    'test/alerts/delivery.test.ts',
    'a test says what each receiver answered, and follows no redirect',
  ],
  'log-lines-lost': [
    'test/signals/log.test.ts',
    'in a file that cannot grow loses whole lines, no calls, and is told how many were lost',
  ],
  'process-failed': [
    'test/running/unforeseen.test.ts',
    'it ends the process, calls under way are answered and new ones are not taken',
  ],
  'server-process-ended': [
    'test/servers/servers.test.ts',
    'one that is killed is started again, the other serves meanwhile, and an alert tells of it',
  ],
};

const sources = readdirSync(join(ROOT, 'src'), { recursive: true, encoding: 'utf8' })
  .map((name) => join('src', name))
  .filter((file) => file.endsWith('.ts') && !file.includes('generated') && file !== TABLE)
  .map((file) => ({ file, text: readFileSync(join(ROOT, file), 'utf8') }));

/** Names of documents in a text, as links from docs/. */
const linked = (text: string) => text.replaceAll(/docs\/([\w-]+\.md)(#[\w-]+)?/g, '[$1]($1$2)');

const END = {
  true: 'Ends when the service finds that the condition has.',
  false: 'Ends an hour after it was last found.',
} as const;

const capitalized = (severity: Severity) => severity[0]?.toUpperCase() + severity.slice(1);

function alertsList(): string {
  return Object.entries(ALERTS)
    .map(([id, { severity, subject, clears, message, meaning, remedy }]) =>
      [
        `## ${id}`,
        paragraph(`“${message}”`),
        paragraph(`**${capitalized(severity)}**, about ${subject}. ${END[`${clears}`]}`),
        paragraph(linked(meaning)),
        paragraph(linked(`**What to do.** ${remedy}`)),
      ].join('\n\n'),
    )
    .join('\n\n')
    .concat('\n');
}

test('docs/alerts.md lists every alert as the code has it (UPDATE=1 writes it)', () => {
  const parts = [{ mark: 'alerts', content: alertsList() }];
  assertWritten('docs/alerts.md', 'test/documents/alerts.test.ts', parts);
});

test('every alert is raised by the code, and nothing but the table’s function writes one', () => {
  const writers = sources.filter(({ text }) =>
    /\.(info|warn|error|fatal)\(\s*\{\s*alert:/.test(text),
  );
  assert.deepEqual(
    writers.map(({ file }) => file),
    [],
  );
  const unraised = Object.keys(ALERTS).filter(
    (id) => !sources.some(({ text }) => text.includes(`'${id}'`)),
  );
  assert.deepEqual(unraised, []);
});

test('every alert is made to happen by a test', () => {
  for (const [id, [file, title]] of Object.entries(MADE_BY)) {
    const text = readFileSync(join(ROOT, file), 'utf8');
    assert.ok(text.includes(title), `${file} has no test “${title}”`);
    assert.ok(text.includes(`'${id}'`), `${file} does not look for ${id}`);
  }
});

test('every alert that another document names is in the table', () => {
  const documents = [
    'SECURITY.md',
    'ARCHITECTURE.md',
    ...readdirSync(join(ROOT, 'docs')).map((name) => join('docs', name)),
  ];
  const named = documents
    .filter((file) => file.endsWith('.md'))
    .flatMap((file) => [...readFileSync(join(ROOT, file), 'utf8').matchAll(/`alert:\s([a-z-]+)`/g)])
    .map(([, id = '']) => id);
  assert.ok(named.length > 5);
  assert.deepEqual(
    named.filter((id) => !Object.hasOwn(ALERTS, id)),
    [],
  );
});
