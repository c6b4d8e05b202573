/**
 * The transport: who gets in, over which TLS, and what happens when certificates change under a
 * running server.
 */
import assert from 'node:assert/strict';
import { generateKeyPairSync } from 'node:crypto';
import { readFileSync, writeFileSync } from 'node:fs';
import { type ClientHttp2Session, connect as connectHttp2 } from 'node:http2';
import { Duplex } from 'node:stream';
import { after, before, describe, test } from 'node:test';
import { type ConnectionOptions, connect as connectTls, type TLSSocket } from 'node:tls';
import { Client, credentials as grpcCredentials } from '@grpc/grpc-js';
import { type ConnectOptions, connect, type KeywardError } from 'keyward-client';
import { type Credentials, createCertificateAuthority } from '../../../dev/certificates.ts';
import {
  type Environment,
  eventually,
  failureOf,
  newEnvironment,
  type Service,
  startService,
} from '../../support/kit.ts';

let environment: Environment;
let service: Service;

before(async () => {
  environment = await newEnvironment();
  service = await startService(environment, { KEYWARD_MODE: 'development' });
});

after(async () => {
  await service?.stop();
  await environment?.[Symbol.asyncDispose]();
});

/** Whether a client with these credentials can make a call. */
async function outcomeOf(
  changes: Partial<ConnectOptions> & { readonly credentials?: Credentials },
): Promise<string> {
  const { credentials, ...rest } = changes;
  const options = {
    ...service.connectOptions(credentials),
    retries: 0,
    defaultTimeoutMs: 5_000,
    ...rest,
  };
  using client = connect(options as ConnectOptions);
  try {
    await client.listTenants();
    return 'OK';
  } catch (error) {
    return (error as KeywardError).reason ?? 'refused';
  }
}

/** How a bare TLS handshake with the server ends: when it succeeds, with an open socket. */
function handshake(options: ConnectionOptions): Promise<TLSSocket> {
  const { certPem: cert, keyPem: key } = environment.ca.issue({ subject: 'bare', usage: 'client' });
  return new Promise((resolve, reject) => {
    const socket = connectTls({
      host: '127.0.0.1',
      port: service.port,
      servername: 'localhost',
      ca: environment.ca.certPem,
      cert,
      key,
      ALPNProtocols: ['h2'],
      ...options,
    });
    socket.once('secureConnect', () => resolve(socket));
    socket.once('error', reject);
  });
}

describe('client certificates', () => {
  test('case 2: of another CA, expired, or for servers only are refused; one of ours gets in', async () => {
    const stranger = createCertificateAuthority('keyward test CA').issue({
      subject: 'x',
      usage: 'client',
    });
    const yesterday = new Date(Date.now() - 86_400_000);
    const expired = environment.ca.issue({
      subject: 'x',
      usage: 'client',
      notBefore: new Date(yesterday.getTime() - 86_400_000),
      notAfter: yesterday,
    });
    const forServers = environment.ca.issue({ subject: 'x', usage: 'server' });
    assert.equal(await outcomeOf({}), 'OK');
    assert.equal(await outcomeOf({ credentials: stranger }), 'refused');
    assert.equal(await outcomeOf({ credentials: expired }), 'refused');
    assert.equal(await outcomeOf({ credentials: forServers }), 'refused');
  });

  test('case 1: none at all is refused', async () => {
    const client = new Client(
      `127.0.0.1:${service.port}`,
      grpcCredentials.createSsl(Buffer.from(environment.ca.certPem)),
    );
    const code = await new Promise((resolve) => {
      const identity = (value: Buffer) => value;
      client.makeUnaryRequest(
        '/keyward.v1.AdminService/ListTenants',
        identity,
        identity,
        Buffer.alloc(0),
        { deadline: Date.now() + 5_000 },
        (error) => resolve(error?.code),
      );
    });
    client.close();
    assert.equal(code, 14);
  });

  test('a caller without a SPIFFE id is known by its subject', async () => {
    const from = service.log.length;
    assert.equal(
      await outcomeOf({
        credentials: environment.ca.issue({ subject: 'batch job', usage: 'client' }),
      }),
      'PERMISSION_MISSING',
    );
    await service.logged(({ caller }) => caller === 'CN=batch job', from);
  });
});

describe('TLS', () => {
  test('case 3: 1.2 is refused, 1.3 is spoken', async () => {
    await assert.rejects(handshake({ maxVersion: 'TLSv1.2' }), /protocol version|alert/i);
    const socket = await handshake({});
    assert.equal(socket.getProtocol(), 'TLSv1.3');
    socket.destroy();
  });

  test('case 4: a session is not resumed, with or without a certificate', async () => {
    const sessions: Buffer[] = [];
    const first = await handshake({});
    first.on('session', (session) => sessions.push(session));
    // Tickets come with the first bytes that the server sends; its HTTP/2 settings do.
    await new Promise((resolve) => first.once('data', resolve));
    await new Promise((resolve) => setTimeout(resolve, 100));
    first.destroy();
    for (const session of sessions) {
      const again = await handshake({ session });
      assert.equal(again.isSessionReused(), false);
      again.destroy();
    }
    const resumedBare = sessions.map((session) =>
      handshake({ session, cert: undefined, key: undefined } as ConnectionOptions).then(
        (socket) =>
          new Promise((resolve) =>
            socket.once('close', () => resolve('closed')).once('error', () => {}),
          ),
        () => 'closed',
      ),
    );
    for (const outcome of await Promise.all(resumedBare)) assert.equal(outcome, 'closed');
  });

  test('a file of client CAs that is empty, cut or damaged leaves the old one in force', async () => {
    const path = environment.variables['KEYWARD_TLS_CLIENT_CA_FILE'] ?? '';
    const good = readFileSync(path, 'utf8');
    const damaged = good.replace(/\n[^-\n]{8}/, '\nAAAAAAAA');
    const leaf = environment.ca.issue({ subject: 'x', usage: 'client' }).certPem;
    for (const [holds, why] of [
      ['', /is empty/],
      [good.slice(0, good.length / 2), /is cut off/],
      [good + damaged, /certificate 2 of 2 is damaged/],
      [leaf, /certificate 1 is not one of a CA/],
    ] as const) {
      const from = service.log.length;
      writeFileSync(path, holds);
      const { err } = await service.logged(
        ({ msg }) => String(msg).startsWith('cannot reload the certificates'),
        from,
      );
      assert.match((err as Error).message, why);
      await service.client().listTenants();
    }
    writeFileSync(path, good);
  });

  test('certificates and CA are reloaded without a restart, and connections stay', async () => {
    const old = service.client();
    await old.listTenants();
    const from = service.log.length;
    const renewed = createCertificateAuthority('renewed CA');
    const server = renewed.issue({ subject: 'keyward', usage: 'server', ips: ['127.0.0.1'] });
    const {
      KEYWARD_TLS_CERT_FILE: cert,
      KEYWARD_TLS_KEY_FILE: key,
      KEYWARD_TLS_CLIENT_CA_FILE: ca,
    } = environment.variables;
    const originals = [environment.ca.certPem, service.connectOptions()] as const;
    writeFileSync(cert ?? '', server.certPem);
    writeFileSync(key ?? '', server.keyPem);
    writeFileSync(ca ?? '', renewed.certPem + originals[0]);
    await service.logged(({ msg }) => msg === 'certificates reloaded', from);
    await old.listTenants();
    const credentials = renewed.issue({ subject: 'new', usage: 'client' });
    assert.equal(
      await outcomeOf({ credentials, ca: renewed.certPem } as never),
      'PERMISSION_MISSING',
    );
    assert.equal(await outcomeOf({ credentials }), 'refused');
  });

  test('files that do not load leave the old ones in force, and the log says so once', async () => {
    const from = service.log.length;
    const { privateKey } = generateKeyPairSync('ec', { namedCurve: 'P-256' });
    writeFileSync(
      environment.variables['KEYWARD_TLS_KEY_FILE'] ?? '',
      privateKey.export({ type: 'pkcs8', format: 'pem' }),
    );
    await service.logged(
      ({ msg }) => String(msg).startsWith('cannot reload the certificates'),
      from,
    );
    await service
      .client()
      .listTenants()
      .catch(() => {});
    (await handshake({ rejectUnauthorized: false })).destroy();
  });
});

describe('beside the service', () => {
  let own: Environment;
  let production: Service;
  before(async () => {
    own = await newEnvironment();
    production = await startService(own);
  });
  after(async () => {
    await production?.stop();
    await own?.[Symbol.asyncDispose]();
  });

  test('reflection is there in development and not otherwise', async () => {
    assert.notEqual(
      await statusOf(
        service,
        environment,
        '/grpc.reflection.v1.ServerReflection/ServerReflectionInfo',
      ),
      '12',
    );
    assert.equal(
      await statusOf(production, own, '/grpc.reflection.v1.ServerReflection/ServerReflectionInfo'),
      '12',
    );
  });

  test('an unknown method is UNIMPLEMENTED', async () => {
    assert.equal(await statusOf(production, own, '/keyward.v1.KeyService/Nothing'), '12');
  });

  test('grpc.health.v1 says SERVING, and NOT_SERVING while no agent is there', async () => {
    assert.equal(await health(own, production), 'SERVING');
    await production.client().listTenants(); // Who may do what is verified by the HSM, and then remembered.
    const from = production.log.length;
    // Without its token no agent comes back.
    writeFileSync(own.token.confFile, 'directories.tokendir = /nowhere\n');
    for (const pid of production.agentPids) process.kill(pid, 'SIGKILL');
    await production.logged(({ msg }) => msg === 'not serving', from);
    assert.equal(await health(own, production), 'NOT_SERVING');
    const error = await eventually(() =>
      failureOf(production.client().getCaller()).catch(() => undefined),
    );
    assert.equal(error, undefined, 'what needs no HSM is still done');
  });
});

describe('an answer', () => {
  test('begins in one piece, its headers and its message together', async () => {
    const { certPem: cert, keyPem: key } = environment.ca.issue({ subject: 'x', usage: 'client' });
    const socket = await handshake({ cert, key, rejectUnauthorized: false });
    const pieces: number[][] = [];
    const wire = new Duplex({
      read: () => {},
      write: (chunk, _encoding, callback) => socket.write(chunk, callback),
      final: (callback) => void socket.end(callback),
    });
    // One for each TLS record.
    socket.on('data', (record: Buffer) => {
      pieces.push(frameTypes(record));
      wire.push(record);
    });
    const session = connectHttp2('https://localhost', { createConnection: () => wire });
    const { status } = await callOn(session, '/keyward.v1.AccessService/GetCaller');
    assert.equal(status, '0');
    const [headers, data] = [1, 0];
    assert.deepEqual(
      pieces.filter((types) => types.includes(data)),
      [[headers, data]],
    );
    session.destroy();
  });
});

/** The types of the HTTP/2 frames in these bytes, which are whole. */
function frameTypes(bytes: Buffer): number[] {
  const types: number[] = [];
  for (let at = 0; at + 9 <= bytes.length; at += 9 + bytes.readUIntBE(at, 3))
    types.push(bytes.readUInt8(at + 3));
  return types;
}

/** The grpc-status of a call with an empty message. */
async function statusOf(running: Service, own: Environment, path: string): Promise<string> {
  return (await rawCall(running, own, path)).status;
}

async function health(own: Environment, running: Service): Promise<string> {
  const { body } = await rawCall(running, own, '/grpc.health.v1.Health/Check');
  return body.at(-1) === 1 ? 'SERVING' : 'NOT_SERVING';
}

async function rawCall(
  running: Service,
  own: Environment,
  path: string,
): Promise<{ readonly status: string; readonly body: Buffer }> {
  const { certPem: cert, keyPem: key } = own.ca.issue({ subject: 'raw', usage: 'client' });
  const session = connectHttp2(`https://127.0.0.1:${running.port}`, {
    ca: own.ca.certPem,
    cert,
    key,
    rejectUnauthorized: false,
  });
  try {
    return await callOn(session, path);
  } finally {
    session.destroy();
  }
}

function callOn(
  session: ClientHttp2Session,
  path: string,
): Promise<{ readonly status: string; readonly body: Buffer }> {
  return new Promise((resolve, reject) => {
    session.once('error', reject);
    const stream = session.request({
      ':method': 'POST',
      ':path': path,
      'content-type': 'application/grpc',
      te: 'trailers',
    });
    let status = '';
    const chunks: Buffer[] = [];
    const note = (headers: Record<string, unknown>) => {
      status ||= String(headers['grpc-status'] ?? '');
    };
    stream.on('response', note);
    stream.on('trailers', note);
    stream.on('data', (chunk: Buffer) => chunks.push(chunk));
    stream.on('end', () => resolve({ status, body: Buffer.concat(chunks) }));
    stream.once('error', reject);
    stream.end(Buffer.alloc(5));
  });
}
