/**
 * The demonstration of a second person: an administrator asks for a key's destruction, somebody
 * else approves it with a passkey, it is done, and its evidence is verified offline.
 *
 * The passkey is of an authenticator in software, which no person would have: its key lies in a
 * file of this environment. Owns that file and a tenant of its own, so that the rule is in nobody's
 * way. Uses the service as any client.
 */
import { randomBytes } from 'node:crypto';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import {
  approvalChallenge,
  exportAuditLog,
  type KeywardClient,
  KeywardError,
  type PendingOperation,
  verifyAuditExport,
} from 'keyward-client';
import { type KeptPasskey, SoftwareAuthenticator } from './authenticator.ts';
import { readJsonIfThere, writePrivateJson } from './files.ts';
import { unlessExists } from './identities.ts';

/** The relying party of the development environment, and the page that would ask. */
export const RELYING_PARTY = 'localhost';
const ORIGIN = `https://${RELYING_PARTY}`;
const TENANT = 'tenants/two-person';
const RULE = { ruleId: 'destruction', permissions: ['keys.destroy'], approvals: 1 };
const PATIENCE_MS = 30_000;
const LOOK_MS = 50;
/** Entries in a tile: an export begins with a whole one. */
const TILE = 256;

/** What is kept of the approver. */
interface Kept {
  /** Which database they are registered in. */
  readonly database: string;
  /** `sub` of their tokens. */
  readonly subject: string;
  readonly passkey: KeptPasskey;
}

export interface SecondPersonOptions {
  readonly admin: KeywardClient;
  readonly auditor: KeywardClient;
  /** Returns a client of somebody with that `sub`, of the issuer `dev-people`. */
  readonly person: (subject: string) => KeywardClient;
  /** Where the approver is kept. */
  readonly file: string;
  /** A name of the database. */
  readonly database: string;
  readonly done: (line: string) => void;
}

/** Shows it; throws at the first thing that is not as it should be. */
export async function demonstrateSecondPerson(options: SecondPersonOptions): Promise<void> {
  const { admin, auditor, done } = options;
  const { treeSize } = await auditor.getAuditCheckpoint();
  await unlessExists(() => admin.createTenant({ tenantId: TENANT.slice('tenants/'.length) }));
  // First: rules want no approval that nobody has a passkey for.
  using approver = await haveApprover(options);
  await setRule(admin);
  const key = await expendableKey(admin);
  const operation = await askForDestruction(admin, key);
  done(`The administrator asked to destroy ${key}: it waits for another person's approval`);
  await approve(approver, operation);
  done('Another person approved exactly that, with a passkey (here an authenticator in software)');
  await untilDone(auditor, operation);
  const { entries, decisions } = await verified(auditor, treeSize, operation);
  const evidence = decisions === 1 ? 'its decision' : `${decisions} decisions`;
  done(
    `It was done; ${entries} exported entries verified offline, with the evidence of ${evidence}`,
  );
}

async function setRule(admin: KeywardClient): Promise<void> {
  const name = `${TENANT}/approvalRules`;
  const { approvalRules, etag } = await admin.getApprovalRules({ name });
  if (approvalRules.length > 0) return;
  await admin.updateApprovalRules({ approvalRules: { name, etag, approvalRules: [RULE] } });
}

async function expendableKey(admin: KeywardClient): Promise<string> {
  const keyId = `expendable-${randomBytes(3).toString('hex')}`;
  const { name } = await admin.createKey({ parent: TENANT, keyId });
  return name;
}

/** Returns the name of the operation that the call became. */
async function askForDestruction(admin: KeywardClient, name: string): Promise<string> {
  const { impact } = await admin.scheduleKeyDestruction({ name, validateOnly: true });
  try {
    await admin.scheduleKeyDestruction({ name, etag: impact.etag });
  } catch (error) {
    const operation =
      error instanceof KeywardError && error.reason === 'APPROVAL_REQUIRED'
        ? error.metadata.get('operation')
        : undefined;
    if (operation === undefined) throw error;
    return operation;
  }
  throw new Error('The self-test failed: a key was to be destroyed without a second person.');
}

/** An approver who has a passkey. */
interface Approver extends Disposable {
  readonly client: KeywardClient;
  readonly authenticator: SoftwareAuthenticator;
  readonly credentialId: Buffer;
  /** Writes down the passkey as it is now, with its counter. */
  keep(): void;
}

/** Returns the approver of this database, made if there is none yet. */
async function haveApprover(options: SecondPersonOptions): Promise<Approver> {
  const { file, database, person } = options;
  const kept = readJsonIfThere<Kept>(file);
  const authenticator = new SoftwareAuthenticator({ rpId: RELYING_PARTY, origin: ORIGIN });
  const isKept = kept?.database === database;
  const subject = isKept ? kept.subject : `approver-${randomBytes(3).toString('hex')}`;
  const client = person(subject);
  if (isKept) authenticator.restore(kept.passkey);
  const credentialId = isKept
    ? Buffer.from(kept.passkey.credentialId, 'base64url')
    : await register(options.admin, client, { subject, authenticator });
  const keep = () => {
    const passkey = authenticator.keep(credentialId);
    writePrivateJson(file, { database, subject, passkey } satisfies Kept);
  };
  keep();
  return { client, authenticator, credentialId, keep, [Symbol.dispose]: () => client.close() };
}

async function approve(
  { client, authenticator, credentialId, keep }: Approver,
  name: string,
): Promise<void> {
  const operation = await client.getPendingOperation({ name });
  const challenge = approvalChallenge(operation, 'approve');
  const assertion = authenticator.get({ challenge, credentialId });
  // Before it is used: the counter of a passkey that was used must not be forgotten.
  keep();
  await client.approveOperation({ name, assertion });
}

/** Makes somebody an approver who has a passkey. */
async function register(
  admin: KeywardClient,
  approver: KeywardClient,
  {
    subject,
    authenticator,
  }: { readonly subject: string; readonly authenticator: SoftwareAuthenticator },
): Promise<Buffer> {
  await admin.createRoleBinding({
    parent: TENANT,
    roleBinding: {
      principal: `jwt:dev-people/${subject}`,
      role: 'roles/approver',
      description: 'Made by npm start, for its demonstration.',
    },
  });
  const { creationOptionsJson } = await approver.beginPasskeyRegistration();
  const { transports: _, ...made } = authenticator.create(creationOptionsJson);
  const displayName = 'An authenticator in software, of npm start';
  await approver.registerPasskey({ parent: TENANT, ...made, displayName });
  return made.credentialId;
}

async function untilDone(auditor: KeywardClient, name: string): Promise<void> {
  const end = Date.now() + PATIENCE_MS;
  let operation: PendingOperation;
  do {
    operation = await auditor.getPendingOperation({ name });
    if (operation.state === 'DONE') return;
    await delay(LOOK_MS);
  } while (['PENDING', 'APPROVED'].includes(operation.state) && Date.now() < end);
  const { state, errorMessage } = operation;
  throw new Error(`The self-test failed: what was approved is ${state}. ${errorMessage}`);
}

/** Exports the log from where it was before, and verifies it and what it says of approvals. */
async function verified(
  auditor: KeywardClient,
  treeSize: number,
  operation: string,
): Promise<{ readonly entries: number; readonly decisions: number }> {
  const firstLeafIndex = Math.floor(treeSize / TILE) * TILE;
  const end = Date.now() + PATIENCE_MS;
  while (Date.now() < end) {
    const folder = mkdtempSync(join(tmpdir(), 'keyward-approvals-'));
    try {
      const { checkpoint } = await exportAuditLog(auditor, folder, { firstLeafIndex });
      let isThere = false;
      const { entries, approvals } = await verifyAuditExport(folder, {
        publicKeys: [checkpoint.publicKey],
        onEntry: (_, line) => {
          isThere ||= line.includes(operation) && line.includes('"approvers":');
        },
      });
      if (isThere) return { entries, decisions: approvals.decisions };
    } finally {
      rmSync(folder, { recursive: true });
    }
    await delay(LOOK_MS);
  }
  throw new Error('The self-test failed: what was approved did not come into the log.');
}
