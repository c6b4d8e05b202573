/**
 * Reflection, by requests of the protocol itself: what is described is whole, and costs the server
 * little to be asked for.
 *
 * What real clients make of it: grpcurl.test.ts.
 */
import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { mkdtempSync, readdirSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { describe, test } from 'node:test';
import type { MethodDefinition, ServiceDefinition } from '@grpc/grpc-js';
import {
  fromJSON,
  loadFileDescriptorSetFromBuffer,
  loadSync,
  type MessageTypeDefinition,
} from '@grpc/proto-loader';
import { packageDefinition } from '../../../src/faces/contract/proto.ts';
import { Descriptors } from '../../../src/faces/grpc/reflection.ts';
import { call, grpcFrame, openSession } from '../../faults/http2.ts';
import { newEnvironment, type Service, sharedService, startService } from '../../support/kit.ts';
import { drawSome, randomBy, SEED } from '../../support/random.ts';

const ROOT = join(import.meta.dirname, '..', '..', '..');
const OPTIONS = { longs: Number, enums: String, defaults: true, oneofs: true };
const VERSIONS = ['v1', 'v1alpha'] as const;
type Version = (typeof VERSIONS)[number];

const NOT_FOUND = 5;
const INVALID_ARGUMENT = 3;
const UNIMPLEMENTED = '12';

interface ReflectionRequest {
  readonly host?: string;
  readonly fileByFilename?: string;
  readonly fileContainingSymbol?: string;
  readonly fileContainingExtension?: {
    readonly containingType: string;
    readonly extensionNumber: number;
  };
  readonly allExtensionNumbersOfType?: string;
  readonly listServices?: string;
}

interface ReflectionResponse {
  readonly validHost: string;
  readonly originalRequest: ReflectionRequest;
  readonly fileDescriptorResponse?: { readonly fileDescriptorProto: readonly Buffer[] };
  readonly allExtensionNumbersResponse?: {
    readonly baseTypeName: string;
    readonly extensionNumber: readonly number[];
  };
  readonly listServicesResponse?: { readonly service: readonly { readonly name: string }[] };
  readonly errorResponse?: { readonly errorCode: number; readonly errorMessage: string };
}

type Reflect = MethodDefinition<ReflectionRequest, ReflectionResponse>;

const reflectIn = Object.fromEntries(
  VERSIONS.map((version) => {
    const file = `grpc/reflection/${version}/reflection.proto`;
    const loaded = loadSync(file, { ...OPTIONS, includeDirs: [join(ROOT, 'src', 'faces')] });
    const service = loaded[`grpc.reflection.${version}.ServerReflection`] as ServiceDefinition;
    return [version, service['ServerReflectionInfo'] as Reflect];
  }),
) as Readonly<Record<Version, Reflect>>;

type Part = Readonly<Record<string, unknown>> & { readonly name: string };
type FileDescriptor = Part & { readonly package: string; readonly dependency: readonly string[] };

const { deserialize: decodeFile } = loadSync('google/protobuf/descriptor.proto', OPTIONS)[
  'google.protobuf.FileDescriptorProto'
] as MessageTypeDefinition<FileDescriptor, FileDescriptor>;

const shared = sharedService(async () => {}, {
  KEYWARD_MODE: 'development',
  KEYWARD_DEADLINE_MS: '120000',
});

function sessionWith(service: Service) {
  const { ca, cert, key } = service.connectOptions();
  assert.ok(ca && cert && key);
  return openSession({ port: service.port, ca: String(ca), cert: String(cert), key: String(key) });
}

/** Asks all of it in one stream. */
async function reflect(
  requests: readonly ReflectionRequest[],
  version: Version = 'v1',
): Promise<ReflectionResponse[]> {
  const { path, requestSerialize, responseDeserialize } = reflectIn[version];
  using session = sessionWith(shared.service);
  const body = requests.map((request) => grpcFrame(requestSerialize(request)));
  const answer = await call(session, { path, body });
  assert.equal(answer.status, 0, answer.message);
  const answers = messagesIn(answer.body).map(responseDeserialize);
  assert.equal(answers.length, requests.length);
  return answers;
}

function messagesIn(body: Buffer): Buffer[] {
  const messages: Buffer[] = [];
  for (let at = 0; at < body.length; ) {
    const end = at + 5 + body.readUInt32BE(at + 1);
    messages.push(body.subarray(at + 5, end));
    at = end;
  }
  return messages;
}

function filesOf(answer: ReflectionResponse): FileDescriptor[] {
  const files = answer.fileDescriptorResponse?.fileDescriptorProto;
  assert.ok(files !== undefined, answer.errorResponse?.errorMessage);
  return files.map((bytes) => decodeFile(bytes));
}

async function listedServices(version?: Version): Promise<string[]> {
  const [answer] = await reflect([{ listServices: '*' }], version);
  return (answer?.listServicesResponse?.service ?? []).map(({ name }) => name);
}

/**
 * Every file that can be come to: from the services, and from what travels without being imported.
 */
async function allFiles(version?: Version): Promise<FileDescriptor[]> {
  const symbols = [...(await listedServices(version)), 'google.rpc.ErrorInfo'];
  const answers = await reflect(
    symbols.map((name) => ({ fileContainingSymbol: name })),
    version,
  );
  const files = answers.flatMap(filesOf).map((file) => [file.name, file] as const);
  return [...new Map(files).values()];
}

/** The full names of all that a descriptor declares; an enum's values are names beside it. */
function symbolsIn(scope: string, parts: Readonly<Record<string, unknown>>): string[] {
  const named = (kind: string) => (parts[kind] ?? []) as readonly Part[];
  const nameOf = ({ name }: Part) => (scope === '' ? name : `${scope}.${name}`);
  const simple = ['field', 'oneofDecl', 'method', 'extension'].flatMap(named);
  const enums = named('enumType');
  const values = enums.flatMap(({ value }) => value as readonly Part[]);
  const deep = ['messageType', 'nestedType', 'service'].flatMap(named);
  return [
    ...[...simple, ...enums, ...values, ...deep].map(nameOf),
    ...deep.flatMap((part) => symbolsIn(nameOf(part), part)),
  ];
}

describe('reflection', () => {
  for (const version of VERSIONS) {
    test(`describes ${version === 'v1' ? 'every symbol' : 'symbols'} by the file that declares it (${version}, seed ${SEED})`, async () => {
      const files = await allFiles(version);
      const expected = files.flatMap((file) =>
        symbolsIn(file.package, file).map((symbol) => ({ symbol, file: file.name })),
      );
      assert.ok(expected.length > 500);
      // One handler answers in both versions.
      const asked = version === 'v1' ? expected : drawSome(expected, 50, randomBy(SEED));
      const answers = await reflect(
        asked.map(({ symbol }) => ({ fileContainingSymbol: symbol })),
        version,
      );
      const found = answers.map((answer, index) => ({
        symbol: asked[index]?.symbol,
        file: filesOf(answer)[0]?.name,
      }));
      assert.deepEqual(found, asked);
    });
  }

  test('serves each file of the contract, and gRPC’s own, under the name by which others import it', async () => {
    const contract = readdirSync(join(ROOT, 'proto'), { recursive: true, encoding: 'utf8' });
    const names = [
      ...contract.filter((name) => name.endsWith('.proto')),
      'grpc/health/v1/health.proto',
      'grpc/reflection/v1/reflection.proto',
      'grpc/reflection/v1alpha/reflection.proto',
      'google/protobuf/timestamp.proto',
    ];
    assert.ok(names.length > 10);
    const answers = await reflect(names.map((name) => ({ fileByFilename: name })));
    assert.deepEqual(
      answers.map((answer) => filesOf(answer)[0]?.name),
      names,
    );
  });

  test('serves what a file imports behind it, and by its name', async () => {
    const files = await allFiles();
    const answers = await reflect(files.map(({ name }) => ({ fileByFilename: name })));
    const known = new Set(files.map(({ name }) => name));
    for (const answer of answers) {
      const served = filesOf(answer);
      const names = served.map(({ name }) => name);
      const imported = served.flatMap(({ dependency }) => dependency);
      assert.deepEqual([...new Set(names)], names);
      assert.deepEqual(new Set(names.slice(1)), new Set(imported));
      assert.ok(imported.every((name) => known.has(name)));
    }
    assert.ok(files.some(({ dependency }) => dependency.length > 1));
  });

  test('has the contract’s comments', async () => {
    const [answer] = await reflect([{ fileContainingSymbol: 'keyward.v1.KeyService' }]);
    const [bytes] = answer?.fileDescriptorResponse?.fileDescriptorProto ?? [];
    assert.match(String(bytes), /Key material is generated in the HSM and leaves it only wrapped/);
  });

  test('lists the services that are served, and no other', async () => {
    const contract = Object.entries(packageDefinition).filter(
      ([name, definition]) => name.startsWith('keyward.') && !('format' in definition),
    );
    const own = [
      'grpc.health.v1.Health',
      ...VERSIONS.map((each) => `grpc.reflection.${each}.ServerReflection`),
    ];
    const listed = await listedServices();
    assert.deepEqual(listed.toSorted(), [...contract.map(([name]) => name), ...own].toSorted());
    const files = await allFiles();
    const paths = files.flatMap((file) =>
      (file['service'] as readonly Part[]).flatMap(({ name, method }) =>
        (method as readonly Part[]).map((each) => `/${file.package}.${name}/${each.name}`),
      ),
    );
    assert.ok(paths.length > listed.length);
    using session = sessionWith(shared.service);
    for (const path of paths)
      assert.notEqual(await firstStatus(session, path), UNIMPLEMENTED, path);
  });

  test('describes well enough to make a call, and to read its answer and its refusal', async () => {
    const symbols = ['keyward.v1.AdminService', 'google.rpc.Status', 'google.rpc.ErrorInfo'];
    const answers = await reflect(symbols.map((name) => ({ fileContainingSymbol: name })));
    const served = answers.flatMap(
      (answer) => answer.fileDescriptorResponse?.fileDescriptorProto ?? [],
    );
    const distinct = new Map(served.map((bytes) => [decodeFile(bytes).name, bytes]));
    const definitions = loadFileDescriptorSetFromBuffer(fileSet([...distinct.values()]), OPTIONS);
    const service = definitions['keyward.v1.AdminService'] as ServiceDefinition;
    const create = service['CreateTenant'] as MethodDefinition<
      object,
      { create_time: { seconds: number } }
    >;
    using session = sessionWith(shared.service);
    const make = () =>
      call(session, {
        path: create.path,
        body: [grpcFrame(create.requestSerialize({ tenant_id: 'described' }))],
      });
    const [made] = messagesIn((await make()).body);
    assert.ok(made);
    const tenant = create.responseDeserialize(made);
    assert.ok(tenant.create_time.seconds > 1.7e9);
    assert.equal((tenant as unknown as { name: string }).name, 'tenants/described');
    const { headers } = await make();
    const decode = <T>(type: string, bytes: Buffer) =>
      (definitions[type] as MessageTypeDefinition<object, object>).deserialize(bytes) as T;
    const { details } = decode<{ details: { type_url: string; value: Buffer }[] }>(
      'google.rpc.Status',
      Buffer.from(String(headers['grpc-status-details-bin']), 'base64'),
    );
    const info = details.find(({ type_url: type }) => type.endsWith('google.rpc.ErrorInfo'));
    assert.ok(info);
    const { reason } = decode<{ reason: string }>('google.rpc.ErrorInfo', info.value);
    assert.equal(reason, 'RESOURCE_EXISTS');
  });

  test('answers for what there is not in the stream, which goes on', async () => {
    const absent: ReflectionRequest[] = [
      { fileContainingSymbol: 'keyward.v1.Nothing' },
      { fileContainingSymbol: 'keyward.v1' },
      { fileContainingSymbol: '.keyward.v1.Key' },
      { fileContainingSymbol: '' },
      { fileContainingSymbol: 'constructor' },
      { fileContainingSymbol: '__proto__' },
      { fileByFilename: 'v1/key.proto' },
      { fileByFilename: '../../package.json' },
      { fileByFilename: 'hasOwnProperty' },
      {
        fileContainingExtension: {
          containingType: 'google.protobuf.Timestamp',
          extensionNumber: 1,
        },
      },
      { fileContainingExtension: { containingType: 'toString', extensionNumber: -1 } },
      { allExtensionNumbersOfType: 'keyward.v1.KeyService' },
      { allExtensionNumbersOfType: 'constructor' },
    ];
    for (const version of VERSIONS) {
      const answers = await reflect([...absent, { host: 'here', listServices: '' }], version);
      const last = answers.pop();
      assert.ok((last?.listServicesResponse?.service.length ?? 0) > 3);
      assert.equal(last?.validHost, 'here');
      for (const [index, { errorResponse, originalRequest }] of answers.entries()) {
        assert.equal(errorResponse?.errorCode, NOT_FOUND, JSON.stringify(absent[index]));
        assert.match(errorResponse.errorMessage, /^cannot find /);
        for (const [key, value] of Object.entries(absent[index] ?? {}))
          assert.deepEqual({ ...Object(Object(originalRequest)[key]) }, { ...Object(value) });
      }
    }
    const [none] = await reflect([{ allExtensionNumbersOfType: 'google.protobuf.Timestamp' }]);
    assert.deepEqual(none?.allExtensionNumbersResponse, {
      baseTypeName: 'google.protobuf.Timestamp',
      extensionNumber: [],
    });
  });

  test('reads no name that is longer than names are, and sends none back', async () => {
    const long = 'x'.repeat(100_000);
    const [nothing, name, host, after] = await reflect([
      {},
      { fileContainingSymbol: long },
      { host: long, listServices: '' },
      { listServices: '' },
    ]);
    for (const answer of [nothing, name, host]) {
      assert.equal(answer?.errorResponse?.errorCode, INVALID_ARGUMENT);
      assert.ok(JSON.stringify(answer).length < 1_000);
    }
    assert.ok(after?.listServicesResponse);
  });

  test('does not read from a caller that takes no answers, and answers all when it does', async () => {
    const { path, requestSerialize, responseDeserialize } = reflectIn.v1;
    const request = requestSerialize({
      host: 'h'.repeat(100),
      fileByFilename: 'google/protobuf/any.proto',
    });
    const count = 10_000;
    using session = sessionWith(shared.service);
    const headers = {
      ':method': 'POST',
      ':path': path,
      'content-type': 'application/grpc',
      te: 'trailers',
    };
    const stream = session.request(headers, { endStream: false });
    stream.on('error', () => {});
    const frames = Buffer.concat(Array.from({ length: 100 }, () => grpcFrame(request)));
    let taken = 0;
    for (let sent = 0; sent < count; sent += 100) {
      stream.write(frames, () => {
        taken += 100;
      });
    }
    stream.end();
    await answersElsewhere();
    assert.ok(taken < count / 2, `${taken} of ${count} were read`);

    const chunks: Buffer[] = [];
    for await (const chunk of stream) chunks.push(chunk as Buffer);
    const answers = messagesIn(Buffer.concat(chunks));
    assert.equal(answers.length, count);
    assert.ok(responseDeserialize(answers.at(-1) as Buffer).fileDescriptorResponse);
  });

  test('ends a stream at the deadline that every call has', async () => {
    await using own = await newEnvironment();
    await using service = await startService(own, {
      KEYWARD_MODE: 'development',
      KEYWARD_DEADLINE_MS: '300',
    });
    using session = sessionWith(service);
    const { path, requestSerialize } = reflectIn.v1;
    const silent = await call(session, { path, unfinished: true });
    assert.equal(silent.reason, 'DEADLINE_EXCEEDED');
    const body = [grpcFrame(requestSerialize({ listServices: '' }))];
    const answered = await call(session, { path, body, unfinished: true });
    assert.ok(answered.body.length > 0);
    assert.notEqual(answered.rstCode, 0);
  });

  test('finds extensions, wherever they are declared', () => {
    const set = compile(`
      syntax = "proto2";
      package made.up;
      message Outer {
        extend Extended { optional string inner = 101; }
        message Extended { extensions 100 to 200; }
        enum Kind { KIND_NONE = 0; }
      }
      message Extended { extensions 100 to 200; }
      extend Outer.Extended { optional int32 other = 150; }
    `);
    const descriptors = new Descriptors(set);
    const numbersOf = (type: string) =>
      descriptors.answer({
        host: '',
        message_request: 'all_extension_numbers_of_type',
        all_extension_numbers_of_type: type,
      }).all_extension_numbers_response?.extension_number;
    assert.deepEqual(numbersOf('made.up.Extended'), []);
    assert.deepEqual(numbersOf('made.up.Outer.Extended'), [101, 150]);
    assert.deepEqual(numbersOf('made.up.Outer'), []);
    const extension = (number: number) =>
      descriptors.answer({
        host: '',
        message_request: 'file_containing_extension',
        file_containing_extension: {
          containing_type: 'made.up.Outer.Extended',
          extension_number: number,
        },
      });
    const [file] = extension(150).file_descriptor_response?.file_descriptor_proto ?? [];
    assert.ok(file);
    assert.equal(decodeFile(file).name, 'up.proto');
    assert.equal(extension(151).error_response?.error_code, NOT_FOUND);
  });
});

/**
 * Returns once the service has answered forty calls of another connection: it had time for this
 * one.
 */
async function answersElsewhere(): Promise<void> {
  using session = sessionWith(shared.service);
  for (let made = 0; made < 40; made++) {
    const answer = await call(session, {
      path: '/grpc.health.v1.Health/Check',
      body: [grpcFrame(Buffer.alloc(0))],
    });
    assert.equal(answer.status, 0);
  }
}

/**
 * The gRPC status that a call with an empty message has in its first headers; undefined when it has
 * an answer.
 */
function firstStatus(
  session: ReturnType<typeof openSession>,
  path: string,
): Promise<string | undefined> {
  const headers = {
    ':method': 'POST',
    ':path': path,
    'content-type': 'application/grpc',
    te: 'trailers',
  };
  const stream = session.request(headers, { endStream: false });
  stream.on('error', () => {});
  stream.end(grpcFrame(Buffer.alloc(0)));
  return new Promise((resolve, reject) => {
    stream.once('response', (received) => {
      const status = received['grpc-status'];
      resolve(status === undefined ? undefined : String(status));
      stream.close();
    });
    stream.once('close', () => reject(new Error(`no answer to ${path}`)));
  });
}

function fileSet(files: readonly Buffer[]): Buffer {
  const file = { rule: 'repeated', type: 'bytes', id: 1 };
  const { Files } = fromJSON({ nested: { Files: { fields: { file } } } });
  return (Files as MessageTypeDefinition<{ file: readonly Buffer[] }, object>).serialize({
    file: files,
  });
}

/** A FileDescriptorSet of one file, `up.proto`. */
function compile(source: string): Buffer {
  const directory = mkdtempSync(join(tmpdir(), 'keyward-proto-'));
  try {
    writeFileSync(join(directory, 'up.proto'), source);
    const buf = join(ROOT, 'node_modules', '.bin', 'buf');
    const args = ['build', directory, '--as-file-descriptor-set', '--output', '-#format=binpb'];
    return execFileSync(buf, args, {
      env: { ...process.env, BUF_CACHE_DIR: join(directory, 'cache') },
    });
  } finally {
    rmSync(directory, { recursive: true });
  }
}
