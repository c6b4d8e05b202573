/**
 * What grpcurl makes of reflection: a client that knows nothing of the contract but what the server
 * describes.
 *
 * `test/long/grpcurl.test.ts` builds it, into the clone, and asks it about everything; it is
 * skipped where there is no Go, or no module proxy. Every `npm test` asks it about some, as the
 * run's seed draws, where it is built already.
 */
import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import { existsSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { before, describe, test } from 'node:test';
import { promisify } from 'node:util';
import type { ServiceDefinition } from '@grpc/grpc-js';
import { findCommand } from '../../../scripts/system-packages.js';
import { packageDefinition } from '../../../src/faces/contract/proto.ts';
import { QUICK_GO } from '../../languages/quick-go.ts';
import { sharedService } from '../../support/kit.ts';
import { drawSome, randomBy, SEED } from '../../support/random.ts';

const run = promisify(execFile);

const STATE = join(import.meta.dirname, '..', '..', '..', '.keyward');
const MODULE = 'github.com/fullstorydev/grpcurl';
const VERSION = 'v1.9.4';
const PROGRAM = join(STATE, `grpcurl-${VERSION}`, 'grpcurl');

const isWhole = process.env['KEYWARD_TEST_GRPCURL'] === 'whole';
/** Of the names to describe, and of the methods to call. */
const SOME = 8;

/** Builds grpcurl unless it is built; returns why it cannot be. */
async function whyNoGrpcurl(): Promise<string | undefined> {
  if (existsSync(PROGRAM)) return undefined;
  if (!isWhole) return 'grpcurl is not built yet: npm run test:long -- grpcurl builds it';
  const go = findCommand('go');
  if (go === undefined) return 'there is no Go to build grpcurl with';
  const env = { ...process.env, ...QUICK_GO, GOBIN: join(PROGRAM, '..') };
  try {
    await run(go, ['mod', 'download', `${MODULE}@${VERSION}`], { env, cwd: STATE });
  } catch (error) {
    return `Go cannot get grpcurl: ${String((error as { stderr?: string }).stderr).trim()}`;
  }
  await run(go, ['install', `${MODULE}/cmd/grpcurl@${VERSION}`], { env, cwd: STATE });
  return undefined;
}

// Not in a test: it takes minutes where nothing is built, and no test may.
const skip = (await whyNoGrpcurl()) ?? false;

const services = Object.entries(packageDefinition)
  .filter(([name, definition]) => name.startsWith('keyward.') && !('format' in definition))
  .map(([name, definition]) => ({ name, methods: Object.keys(definition as ServiceDefinition) }));
const GRPC_SERVICES = [
  { name: 'grpc.health.v1.Health', methods: ['Check', 'List', 'Watch'] },
  { name: 'grpc.reflection.v1.ServerReflection', methods: ['ServerReflectionInfo'] },
  { name: 'grpc.reflection.v1alpha.ServerReflection', methods: ['ServerReflectionInfo'] },
];

interface Type {
  readonly name: string;
  readonly nestedType?: readonly Type[];
  readonly enumType?: readonly Type[];
  readonly options?: { readonly mapEntry?: boolean } | null;
}

const types = Object.entries(packageDefinition).flatMap(([name, definition]) =>
  'format' in definition ? namesIn(name, definition.type as Type) : [],
);

/** Without what maps are made of, which the compiler names otherwise. */
function namesIn(name: string, { nestedType = [], enumType = [] }: Type): string[] {
  const nested = [...nestedType.filter(({ options }) => !options?.mapEntry), ...enumType];
  return [name, ...nested.flatMap((type) => namesIn(`${name}.${type.name}`, type))];
}

const random = randomBy(SEED);
const someOf = <Item>(items: readonly Item[]) => (isWhole ? items : drawSome(items, SOME, random));

/** What grpcurl says of a symbol or a type that it was not told of. */
const NOT_UNDERSTOOD =
  /not found|not recognized|does not (expose|include|support)|failed to|Unimplemented/i;

/** A description without the contract's comments, which may say anything. */
const withoutComments = (text: string) => text.replaceAll(/^\s*\/\/.*$/gm, '');

describe(`grpcurl, by reflection (seed ${SEED})`, { skip }, () => {
  const shared = sharedService(async () => {}, {
    KEYWARD_MODE: 'development',
    KEYWARD_DEADLINE_MS: '120000',
  });
  let identity: readonly string[] = [];

  before(() => {
    const { ca, cert, key } = shared.service.connectOptions();
    const files = { cacert: ca, cert, key };
    identity = Object.entries(files).flatMap(([option, pem]) => {
      const file = join(shared.environment.directory, `grpcurl-${option}`);
      writeFileSync(file, String(pem), { mode: 0o600 });
      return [`-${option}`, file];
    });
  });

  async function grpcurl(options: readonly string[], ...rest: readonly string[]): Promise<string> {
    const args = [...identity, ...options, `127.0.0.1:${shared.service.port}`, ...rest];
    try {
      const { stdout, stderr } = await run(PROGRAM, args);
      return stdout + stderr;
    } catch (error) {
      const { stdout, stderr } = error as { stdout?: string; stderr?: string };
      return `${stdout}${stderr}`;
    }
  }

  test('lists what is served', async () => {
    const listed = (await grpcurl([], 'list')).trim().split('\n');
    const expected = [...services, ...GRPC_SERVICES].map(({ name }) => name);
    assert.deepEqual(listed.toSorted(), expected.toSorted());
  });

  test('describes every service with its comments, every message and every enum', async () => {
    const names = [...services.map(({ name }) => name), ...types];
    const described = await fourAtATime(someOf(names), async (name) => ({
      name,
      text: await grpcurl([], 'describe', name),
    }));
    for (const { name, text } of described) {
      assert.match(
        text,
        new RegExp(`^${name.replaceAll('.', '\\.')} is an? (service|message|enum):\n`),
      );
      assert.doesNotMatch(withoutComments(text), NOT_UNDERSTOOD);
    }
    assert.ok(types.includes('google.protobuf.Timestamp'));
    const service = await grpcurl([], 'describe', 'keyward.v1.KeyService');
    assert.match(service, /\/\/ Key material is generated in the HSM and leaves it only wrapped/);
  });

  test('calls every method, and understands what it answers', async () => {
    const methods = [...services, ...GRPC_SERVICES].flatMap(({ name, methods: own }) =>
      own.map((method) => `${name}/${method}`),
    );
    assert.ok(methods.length > 50);
    const called = await fourAtATime(someOf(methods), async (method) => {
      // What has no end of its own was understood by then.
      const limit = ['-max-time', method.endsWith('/Watch') ? '5' : '100'];
      return { method, text: await grpcurl([...limit, '-d', '{}'], method) };
    });
    for (const { method, text } of called) {
      assert.doesNotMatch(text, NOT_UNDERSTOOD, method);
      assert.match(text, /^(\{|$|ERROR:\n {2}Code: )/, method);
      if (method.startsWith('keyward.') && text.startsWith('ERROR:'))
        assert.match(
          text,
          /"@type": ?"type\.googleapis\.com\/google\.rpc\.ErrorInfo",\s+"domain"/,
          method,
        );
    }
  });

  test('writes and reads times, periods and bytes', async () => {
    const call = async (method: string, request: object) => {
      const text = await grpcurl(['-d', JSON.stringify(request)], `keyward.v1.${method}`);
      assert.match(text, /^\{/, text);
      return JSON.parse(text) as Readonly<Record<string, string>>;
    };
    const tenant = await call('AdminService/CreateTenant', { tenantId: 'by-grpcurl' });
    assert.ok(!Number.isNaN(Date.parse(tenant['createTime'] ?? '')));
    const parent = 'tenants/by-grpcurl';
    const key = await call('KeyService/CreateKey', {
      parent,
      keyId: 'k',
      rotationPeriod: '86400s',
    });
    assert.equal(key['rotationPeriod'], '86400s');
    const name = `${parent}/keys/k`;
    const plaintext = Buffer.from('hello').toString('base64');
    const { ciphertext } = await call('EncryptionService/Encrypt', { name, plaintext });
    const opened = await call('EncryptionService/Decrypt', { parent, ciphertext });
    assert.equal(opened['plaintext'], plaintext);
  });
});

async function fourAtATime<Item, Result>(
  items: readonly Item[],
  work: (item: Item) => Promise<Result>,
): Promise<Result[]> {
  const waiting = items.entries();
  const results: Result[] = [];
  const worker = async () => {
    for (const [index, item] of waiting) results[index] = await work(item);
  };
  await Promise.all(Array.from({ length: 4 }, worker));
  return results;
}
