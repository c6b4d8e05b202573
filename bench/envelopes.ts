/**
 * What envelopes cost beside bare AES-256-GCM by node:crypto, measured: values under a remembered
 * data key, and streams, both in this process; and files, whose part is in `files.ts`.
 *
 * Rates are of this process' CPU time, so that what else the machine does weighs little.
 */
import {
  createCipheriv,
  createDecipheriv,
  createSecretKey,
  type KeyObject,
  randomBytes,
} from 'node:crypto';
import { join } from 'node:path';
import type { Duplex } from 'node:stream';
import { connect, type Envelope } from 'keyward-client';
import { type Bench, say } from './bench.ts';
import { envelopesTargets, envelopesText } from './envelopes-report.ts';
import type { Environment } from './environment.ts';
import { type FilePlan, type FileResults, measureFiles } from './files.ts';
import { median, type Spread, spreadOf } from './measure.ts';
import { CONTEXT, createKeys, PAYLOAD_BYTES, type Sender, TENANT } from './workloads.ts';

/** How much is done. */
interface EnvelopePlan {
  readonly rounds: number;
  /** In a slice. */
  readonly values: number;
  /** Of {@link CHUNK_BYTES}, in a slice. */
  readonly chunks: number;
  readonly files: FilePlan;
}

/** What is compared with what, in items or bytes a second. */
export interface Compared {
  readonly name: string;
  readonly perSecond: number;
  readonly floorPerSecond: number;
  readonly ofFloor: Spread;
}

export interface EnvelopeResults {
  /** Items a second. */
  readonly values: readonly Compared[];
  /** Bytes a second. */
  readonly streams: readonly Compared[];
  readonly files: FileResults;
}

/** As a stream has it. */
const CHUNK_BYTES = 65_536;
const CIPHER = 'aes-256-gcm';
const KEY_ID = 'envelopes';

const FULL: EnvelopePlan = {
  rounds: 9,
  values: 20_000,
  chunks: 2_048,
  files: { rounds: 5, bytes: 1e9 },
};
const QUICK: EnvelopePlan = {
  rounds: 1,
  values: 2_000,
  chunks: 200,
  files: { rounds: 1, bytes: 8e6 },
};
/** Of files whose size is given. */
const LARGE_ROUNDS = 3;

/** See this file's first paragraph. */
export const envelopes: Bench = {
  name: 'envelopes',
  title: 'Envelopes and files',
  measures: "the client's envelopes, streams and files beside bare AES-256-GCM and OpenSSL",
  options: { gigabytes: 'how large the file is, 1 unless given' },
  async run({ isQuick, option, environment, send }) {
    say('envelopes and files …');
    const plan = isQuick ? QUICK : FULL;
    const gigabytes = option('gigabytes');
    const files =
      gigabytes === undefined
        ? plan.files
        : { bytes: Number(gigabytes) * 1e9, rounds: LARGE_ROUNDS };
    const results = await measureEnvelopes(environment, send, { ...plan, files });
    return { text: envelopesText(results), targets: envelopesTargets(results) };
  },
};

/** Everything above, on the bench's environment, under a key that `send` makes. */
async function measureEnvelopes(
  environment: Environment,
  send: Sender,
  plan: EnvelopePlan,
): Promise<EnvelopeResults> {
  const { path, requests } = createKeys([KEY_ID]);
  await send(path, requests);
  const key = `tenants/${TENANT}/keys/${KEY_ID}`;
  using keyward = connect(environment.client);
  const box = keyward.envelope({ key, cache: { maxAgeMs: 3_600_000 } });
  const files = { ...plan.files, folder: join(environment.directory, 'files') };
  return {
    values: await measureValues(box, plan),
    streams: await measureStreams(box, plan),
    files: await measureFiles(environment.client, key, files),
  };
}

type Work = (times: number) => Promise<void> | void;

async function measureValues(box: Envelope, { rounds, values }: EnvelopePlan) {
  const bytes = randomBytes(PAYLOAD_BYTES);
  const options = { context: CONTEXT };
  const envelope = await box.encrypt(bytes, options);
  const bare = bareCipher(bytes);
  const encrypt: Work = async (times) => {
    for (let i = 0; i < times; i++) await box.encrypt(bytes, options);
  };
  const decrypt: Work = async (times) => {
    for (let i = 0; i < times; i++) await box.decrypt(envelope, options);
  };
  return [
    await compare('encrypt', bare.encrypt, encrypt, { rounds, times: values, each: 1 }),
    await compare('decrypt', bare.decrypt, decrypt, { rounds, times: values, each: 1 }),
  ];
}

async function measureStreams(box: Envelope, { rounds, chunks }: EnvelopePlan) {
  const chunk = randomBytes(CHUNK_BYTES);
  const bare = bareCipher(chunk, chunks);
  const plain = Array.from({ length: chunks }, () => chunk);
  const parts: Buffer[] = [];
  await through(box.encryptStream(), plain, (part) => parts.push(part));
  const sealed = inBlocks(Buffer.concat(parts));
  const encrypt: Work = () => through(box.encryptStream(), plain);
  const decrypt: Work = () => through(box.decryptStream(), sealed);
  const times = { rounds, times: chunks, each: CHUNK_BYTES };
  return [
    await compare('encrypt', bare.encrypt, encrypt, times),
    await compare('decrypt', bare.decrypt, decrypt, times),
  ];
}

/** As a file's stream gives it. */
function inBlocks(bytes: Buffer): Buffer[] {
  const count = Math.ceil(bytes.length / CHUNK_BYTES);
  return Array.from({ length: count }, (_, index) =>
    bytes.subarray(index * CHUNK_BYTES, (index + 1) * CHUNK_BYTES),
  );
}

async function through(
  stream: Duplex,
  chunks: readonly Buffer[],
  take: (part: Buffer) => void = () => {},
): Promise<void> {
  const ended = Promise.withResolvers<void>();
  stream.on('data', take).once('end', ended.resolve).once('error', ended.reject);
  for (const chunk of chunks)
    if (!stream.write(chunk)) await new Promise((resolve) => stream.once('drain', resolve));
  stream.end();
  await ended.promise;
}

/**
 * AES-256-GCM and nothing else, with an IV that is drawn for each message. What is decrypted is so
 * many messages, each in memory of its own where the other's is: one that stays in the processor's
 * cache takes a quarter less.
 */
function bareCipher(
  bytes: Buffer,
  messages = 1,
): { readonly encrypt: Work; readonly decrypt: Work } {
  const key = createSecretKey(randomBytes(32));
  const sealed = Array.from({ length: messages }, () => sealBare(key, bytes));
  return {
    encrypt: (times) => {
      for (let i = 0; i < times; i++) sealBare(key, bytes);
    },
    decrypt: (times) => {
      for (let i = 0; i < times; i++) openBare(key, sealed[i % messages] as Sealed);
    },
  };
}

interface Sealed {
  readonly iv: Buffer;
  readonly ciphertext: Buffer;
  readonly tag: Buffer;
}

function sealBare(key: KeyObject, bytes: Buffer): Sealed {
  const iv = randomBytes(12);
  const cipher = createCipheriv(CIPHER, key, iv);
  const ciphertext = cipher.update(bytes);
  cipher.final();
  return { iv, ciphertext, tag: cipher.getAuthTag() };
}

function openBare(key: KeyObject, { iv, ciphertext, tag }: Sealed): Buffer {
  const decipher = createDecipheriv(CIPHER, key, iv);
  decipher.setAuthTag(tag);
  const bytes = decipher.update(ciphertext);
  decipher.final();
  return bytes;
}

/** The floor and the other in turn, after a slice of each that does not count. */
async function compare(
  name: string,
  floor: Work,
  other: Work,
  { rounds, times, each }: { rounds: number; times: number; each: number },
): Promise<Compared> {
  const rateOf = async (work: Work) => {
    const before = process.cpuUsage();
    await work(times);
    const { user, system } = process.cpuUsage(before);
    return (times * each * 1e6) / (user + system);
  };
  for (const work of [floor, other]) await work(times);
  const rates: (readonly [floor: number, other: number])[] = [];
  for (let round = 0; round < rounds; round++)
    rates.push([await rateOf(floor), await rateOf(other)]);
  const ratios = rates.map(([a, b]) => b / a);
  return {
    name,
    perSecond: median(rates.map(([, rate]) => rate)),
    floorPerSecond: median(rates.map(([rate]) => rate)),
    ofFloor: spreadOf(ratios),
  };
}
