/**
 * The self-test of `npm start`, and a demonstration: what a client does first, done and shown.
 *
 * Uses the service as any client, by `keyward-client`: as its administrator, as a service of the
 * tenant `demo`, as an auditor, each for what he may do, and once for what he may not. Keeps one
 * ciphertext with its context from start to start, never a plaintext, to show that what was
 * encrypted before still opens.
 */
import { createHash, randomBytes } from 'node:crypto';
import { type KeywardClient, KeywardError } from 'keyward-client';
import { readJsonIfThere, writePrivateJson } from './files.ts';
import { grantRoles, unlessExists } from './identities.ts';
import { demonstrateSecondPerson } from './second-person.ts';

const TENANT = 'tenants/demo';
const KEY = `${TENANT}/keys/demo`;
/** Rotated by itself each minute, with data keys to re-wrap. */
const ROTATING_KEY = `${TENANT}/keys/rotating`;
const ROTATION_PERIOD_SECONDS = 60;
const DATA_KEYS = 2_000;
const DATA_KEYS_AT_ONCE = 16;
const CONTEXT = { conversation: 'c-42', purpose: 'transcript' };
const MESSAGE = 'The patient asked about the new dosage.';

/** What is kept of a demonstration. */
interface Kept {
  /** Which database it was made with: another has other keys. */
  readonly database: string;
  readonly time: string;
  readonly ciphertext: string;
  readonly context: Readonly<Record<string, string>>;
  /** Of the plaintext, so that it needn't be kept to be compared. */
  readonly sha256: string;
}

/** Who acts. */
interface Callers {
  readonly admin: KeywardClient;
  readonly service: KeywardClient;
  readonly auditor: KeywardClient;
}

export interface DemonstrationOptions {
  readonly callers: Callers;
  /** Returns a client of somebody with that `sub`, of the issuer `dev-people`. */
  readonly person: (subject: string) => KeywardClient;
  /** Where the ciphertext is kept. */
  readonly file: string;
  /** Where the approver with a passkey is kept. */
  readonly approverFile: string;
  /** A name of the database. */
  readonly database: string;
  readonly say: (line: string) => void;
}

/** Shows the service at work; throws at the first thing that is not as it should be. */
export async function demonstrate(options: DemonstrationOptions): Promise<void> {
  const { callers, person, file, approverFile, database, say } = options;
  const { admin, service, auditor } = callers;
  const done = (line: string) => say(`  ✓ ${line}`);
  done(await demoKey(admin));
  await showAccess(callers, done);
  await openEarlier(service, file, database, done);
  await issueDataKey(service, done);
  const ciphertext = await encryptAndDecrypt(service, done);
  await refuseWrongContext(service, ciphertext, done);
  await refuseAdministrator(admin, ciphertext, done);
  await rotateAndRewrap(callers, done);
  await demonstrateSecondPerson({
    ...{ admin, auditor, person, database, done },
    file: approverFile,
  });
  done(await audited(auditor));
  writePrivateJson(file, {
    database,
    time: new Date().toISOString(),
    ciphertext: ciphertext.toString('base64'),
    context: CONTEXT,
    sha256: sha256(MESSAGE),
  } satisfies Kept);
}

async function demoKey(admin: KeywardClient): Promise<string> {
  const madeTenant = await unlessExists(() => admin.createTenant({ tenantId: 'demo' }));
  const madeKey = await unlessExists(() => admin.createKey({ parent: TENANT, keyId: 'demo' }));
  await grantRoles(admin);
  const key = await admin.getKey({ name: KEY });
  const how = madeTenant || madeKey ? 'Created' : 'Found';
  return `${how} the key ${KEY}; its primary version is ${key.primary.name.split('/').at(-1)}`;
}

async function showAccess(
  { admin, service, auditor }: Callers,
  done: (line: string) => void,
): Promise<void> {
  const names = await Promise.all(
    [admin, service, auditor].map(async (each) => (await each.getCaller()).name),
  );
  const [adminName, serviceName, auditorName] = names;
  done(`Called as the administrator ${adminName}, by certificate: creates keys and uses none`);
  done(`Called as ${serviceName}, by a token bound to its certificate: uses the keys of ${TENANT}`);
  done(`Called as ${auditorName}, by a token with a group: sees everything but data`);
}

/** What nobody has given. */
async function refuseAdministrator(
  admin: KeywardClient,
  ciphertext: Buffer,
  done: (line: string) => void,
): Promise<void> {
  try {
    await admin.decrypt({ parent: TENANT, ciphertext, encryptionContext: CONTEXT });
  } catch (error) {
    if (!hasReason(error, 'PERMISSION_MISSING')) throw error;
    const [permission, resource] = ['permission', 'resource'].map((name) =>
      error.metadata.get(name),
    );
    done(
      'The administrator tried to decrypt it and was refused: ' +
        `permission ${permission} is missing on ${resource}`,
    );
    return;
  }
  throw new Error(
    'The self-test failed: the administrator could decrypt without a binding for it.',
  );
}

async function audited(auditor: KeywardClient): Promise<string> {
  const [tenants, bindings, keys] = await Promise.all([
    auditor.listTenants({ pageSize: 1_000 }),
    auditor.listRoleBindings({ parent: TENANT, pageSize: 1_000 }),
    auditor.listKeys({ parent: TENANT, pageSize: 1_000 }),
  ]);
  const counts = [tenants.tenants, keys.keys, bindings.roleBindings].map(({ length }) => length);
  return (
    `The auditor saw ${counts[0]} tenants, and in ${TENANT} ${counts[1]} keys and ` +
    `${counts[2]} role bindings`
  );
}

async function openEarlier(
  client: KeywardClient,
  file: string,
  database: string,
  done: (line: string) => void,
): Promise<void> {
  const kept = readJsonIfThere<Kept>(file);
  if (kept === undefined || kept.database !== database) return;
  const ciphertext = Buffer.from(kept.ciphertext, 'base64');
  const { plaintext } = await client.decrypt({
    parent: TENANT,
    ciphertext,
    encryptionContext: kept.context,
  });
  expect(sha256(plaintext) === kept.sha256, 'an earlier ciphertext opened to another plaintext');
  done(`Decrypted a ciphertext of an earlier start (${kept.time})`);
}

async function issueDataKey(client: KeywardClient, done: (line: string) => void): Promise<void> {
  const issued = await client.generateDataKey({ name: KEY, encryptionContext: CONTEXT });
  done(
    `Issued a data key: ${issued.plaintext.length} bytes, ` +
      `wrapped in ${issued.wrappedDataKey.length}`,
  );
  const opened = await client.decrypt({
    parent: TENANT,
    ciphertext: issued.wrappedDataKey,
    encryptionContext: CONTEXT,
  });
  expect(opened.plaintext.equals(issued.plaintext), 'the wrapped data key opened to other bytes');
  done('Opened the wrapped data key: the same bytes');
}

async function encryptAndDecrypt(
  client: KeywardClient,
  done: (line: string) => void,
): Promise<Buffer> {
  const plaintext = Buffer.from(MESSAGE);
  const { ciphertext } = await client.encrypt({ name: KEY, plaintext, encryptionContext: CONTEXT });
  done(`Encrypted ${plaintext.length} bytes to ${ciphertext.length}`);
  const opened = await client.decrypt({ parent: TENANT, ciphertext, encryptionContext: CONTEXT });
  expect(opened.plaintext.equals(plaintext), 'the ciphertext opened to another plaintext');
  done(`Decrypted them, with version ${opened.keyVersion.split('/').at(-1)} of the key`);
  return ciphertext;
}

async function refuseWrongContext(
  client: KeywardClient,
  ciphertext: Buffer,
  done: (line: string) => void,
): Promise<void> {
  const encryptionContext = { ...CONTEXT, conversation: `c-${randomBytes(3).toString('hex')}` };
  try {
    await client.decrypt({ parent: TENANT, ciphertext, encryptionContext });
  } catch (error) {
    if (!hasReason(error, 'DECRYPTION_FAILED')) throw error;
    done('Another encryption context was refused: DECRYPTION_FAILED');
    return;
  }
  throw new Error('The self-test failed: the ciphertext opened with another encryption context.');
}

/** Rotates the key that does so by itself, too, and follows its data keys under the new version. */
async function rotateAndRewrap(callers: Callers, done: (line: string) => void): Promise<void> {
  const { admin, service } = callers;
  await unlessExists(() =>
    admin.createKey({
      parent: TENANT,
      keyId: 'rotating',
      rotationPeriodSeconds: ROTATION_PERIOD_SECONDS,
      description: 'The demonstration: rotated each minute, its data keys re-wrapped.',
    }),
  );
  const made = await storeDataKeys(callers);
  const { dataKeys } = await admin.listDataKeys({ parent: ROTATING_KEY, pageSize: 1 });
  const [first] = dataKeys;
  if (first === undefined) throw new Error('The self-test failed: there is no stored data key.');
  const before = await service.getDataKey({ name: first.name, encryptionContext: CONTEXT });
  const stored = made > 0 ? `Stored ${made} data keys` : `Found ${DATA_KEYS} stored data keys`;
  done(`${stored} under ${ROTATING_KEY}`);

  const key = await admin.rotateKey({ name: ROTATING_KEY });
  const { rotations } = await admin.listRotations({ parent: ROTATING_KEY });
  const rotation = rotations.find(({ toVersion }) => toVersion === key.primary.name);
  if (rotation === undefined)
    throw new Error('The self-test failed: the history lacks the rotation.');
  let state = rotation.rewrapState;
  for await (const job of admin.watchRewrapJob({ name: rotation.rewrapJob })) state = job.state;
  // Its minute may be over while we look: then the next rotation's job has taken over.
  expect(state === 'SUCCEEDED' || state === 'SUPERSEDED', `the re-wrap job ended ${state}`);
  const after = await service.getDataKey({ name: first.name, encryptionContext: CONTEXT });
  expect(after.plaintext.equals(before.plaintext), 're-wrapping changed a data key');
  const [from, to] = [before, after].map(({ dataKey }) => dataKey.keyVersion.split('/').at(-1));
  done(`Rotated it and re-wrapped them, from version ${from} to ${to}, with the same bytes`);
  const next = key.nextRotationTime?.toISOString();
  const history = rotations.length === 1 ? '1 rotation' : `${rotations.length} rotations`;
  done(`Its history has ${history}; the next automatic one is at ${next}`);
}

/** Makes those that are missing; returns how many that were. */
async function storeDataKeys({ admin, service }: Callers): Promise<number> {
  const there = new Set<string>();
  for await (const { name } of admin.dataKeys(ROTATING_KEY, { pageSize: 1_000 })) there.add(name);
  const ids = Array.from(
    { length: DATA_KEYS },
    (_, index) => `customer-${String(index).padStart(4, '0')}`,
  );
  const missing = ids.filter((id) => !there.has(`${ROTATING_KEY}/dataKeys/${id}`)).values();
  let made = 0;
  const worker = async () => {
    for (const dataKeyId of missing) {
      await service.createDataKey({ parent: ROTATING_KEY, dataKeyId, encryptionContext: CONTEXT });
      made += 1;
    }
  };
  await Promise.all(Array.from({ length: DATA_KEYS_AT_ONCE }, worker));
  return made;
}

function hasReason(error: unknown, reason: string): error is KeywardError {
  return error instanceof KeywardError && error.reason === reason;
}

function expect(condition: boolean, otherwise: string): void {
  if (!condition) throw new Error(`The self-test failed: ${otherwise}.`);
}

function sha256(content: string | Buffer): string {
  return createHash('sha256').update(content).digest('hex');
}
