/**
 * The self-test of `npm start`, and a demonstration: what a client does first, done and shown.
 *
 * Uses the service as any client, by `keyward-client`. Keeps one ciphertext with its context from start to start, never
 * a plaintext, to show that what was encrypted before still opens.
 */
import { createHash, randomBytes } from 'node:crypto';
import { type KeywardClient, KeywardClientError } from 'keyward-client';
import { readJsonIfThere, writePrivateJson } from './files.ts';

const TENANT = 'tenants/demo';
const KEY = `${TENANT}/keys/demo`;
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

export interface DemonstrationOptions {
  readonly client: KeywardClient;
  /** Where the ciphertext is kept. */
  readonly file: string;
  /** A name of the database. */
  readonly database: string;
  readonly say: (line: string) => void;
}

/** Shows the service at work; throws at the first thing that is not as it should be. */
export async function demonstrate({ client, file, database, say }: DemonstrationOptions): Promise<void> {
  const done = (line: string) => say(`  ✓ ${line}`);
  done(await demoKey(client));
  await openEarlier(client, file, database, done);
  await issueDataKey(client, done);
  const ciphertext = await encryptAndDecrypt(client, done);
  await refuseWrongContext(client, ciphertext, done);
  writePrivateJson(file, {
    database,
    time: new Date().toISOString(),
    ciphertext: ciphertext.toString('base64'),
    context: CONTEXT,
    sha256: sha256(MESSAGE),
  } satisfies Kept);
}

async function demoKey(client: KeywardClient): Promise<string> {
  const madeTenant = await unlessExists(() => client.createTenant({ tenantId: 'demo' }));
  const madeKey = await unlessExists(() => client.createKey({ parent: TENANT, keyId: 'demo' }));
  const key = await client.getKey({ name: KEY });
  const how = madeTenant || madeKey ? 'Created' : 'Found';
  return `${how} the key ${KEY}; its primary version is ${key.primary.name.split('/').at(-1)}`;
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
  const { plaintext } = await client.decrypt({ parent: TENANT, ciphertext, encryptionContext: kept.context });
  expect(sha256(plaintext) === kept.sha256, 'what was encrypted before opened to something else');
  done(`Opened what was encrypted at an earlier start (${kept.time})`);
}

async function issueDataKey(client: KeywardClient, done: (line: string) => void): Promise<void> {
  const issued = await client.generateDataKey({ name: KEY, encryptionContext: CONTEXT });
  done(`Issued a data key: ${issued.plaintext.length} bytes, wrapped in ${issued.wrappedDataKey.length}`);
  const opened = await client.decrypt({
    parent: TENANT,
    ciphertext: issued.wrappedDataKey,
    encryptionContext: CONTEXT,
  });
  expect(opened.plaintext.equals(issued.plaintext), 'the wrapped data key opened to another one');
  done('Opened the wrapped data key: the same bytes');
}

async function encryptAndDecrypt(client: KeywardClient, done: (line: string) => void): Promise<Buffer> {
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
  throw new Error('The ciphertext opened with another encryption context.');
}

/** Whether it was done; false when the thing exists already. */
async function unlessExists(create: () => Promise<unknown>): Promise<boolean> {
  try {
    await create();
    return true;
  } catch (error) {
    if (hasReason(error, 'RESOURCE_EXISTS')) return false;
    throw error;
  }
}

function hasReason(error: unknown, reason: string): boolean {
  return error instanceof KeywardClientError && error.reason === reason;
}

function expect(condition: boolean, otherwise: string): void {
  if (!condition) throw new Error(`The self-test failed: ${otherwise}.`);
}

function sha256(content: string | Buffer): string {
  return createHash('sha256').update(content).digest('hex');
}
