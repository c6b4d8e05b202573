/**
 * `keyward doctor`, and what other commands report where the service cannot be reached: each thing
 * that can be wrong is really so.
 */
import assert from 'node:assert/strict';
import { createHash, X509Certificate } from 'node:crypto';
import { once } from 'node:events';
import { mkdirSync, mkdtempSync, renameSync, rmSync, writeFileSync } from 'node:fs';
import { createServer as createHttpServer } from 'node:http';
import { createSecureServer as createHttp2Server } from 'node:http2';
import { type AddressInfo, createServer as createTcpServer, type Server } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, describe, it } from 'node:test';
import { createServer as createTlsServer } from 'node:tls';
import { Server as GrpcServer, ServerCredentials } from '@grpc/grpc-js';
import { type Credentials, createCertificateAuthority } from '../../dev/certificates.ts';
import { AUDIENCE, ISSUER, signingKey, type TokenChanges, tokenBy } from '../access/issuer.ts';
import {
  type Environment,
  eventually,
  newEnvironment,
  type Service,
  startService,
} from '../support/kit.ts';
import { TESTER } from '../support/tester.ts';
import { runHere } from './here.ts';

const KEY = 'tenants/acme/keys/orders';
const signer = signingKey('key-1');
const running = new AsyncDisposableStack();
let environment: Environment;
let service: Service;
let folder: string;

/** What to give the command in place of what is right. */
type Changes = Readonly<Partial<Record<'address' | 'ca' | 'cert' | 'key' | 'token', string>>>;

before(async () => {
  environment = running.use(await newEnvironment());
  folder = join(environment.directory, 'doctor');
  mkdirSync(folder);
  const jwksFile = write('jwks.json', JSON.stringify({ keys: [signer.jwk] }));
  const issuer = { name: 'corp', issuer: ISSUER, audience: AUDIENCE, algorithms: ['ES256'] };
  service = running.use(
    await startService(environment, {
      KEYWARD_ISSUERS_FILE: write(
        'issuers.json',
        JSON.stringify({ issuers: [{ ...issuer, jwksFile }] }),
      ),
      KEYWARD_HTTP_LISTEN: '127.0.0.1:0',
    }),
  );
  const client = service.client();
  await client.createTenant({ tenantId: 'acme' });
  await client.createKey({ parent: 'tenants/acme', keyId: 'orders' });
  write('ca.pem', environment.ca.certPem);
  identity('caller', environment.ca.issue({ subject: 'caller', usage: 'client', uris: [TESTER] }));
});

after(() => running.disposeAsync());

function write(name: string, content: string | Uint8Array): string {
  const file = join(folder, name);
  writeFileSync(file, content, { mode: 0o600 });
  return file;
}

function identity(name: string, { certPem, keyPem }: Credentials): void {
  write(`${name}.pem`, certPem);
  write(`${name}.key`, keyPem);
}

/** Runs a command as the caller that is right, but for the changes. */
function keyward(
  command: string,
  changes: Changes = {},
  { env = {}, global = '' }: { env?: Record<string, string>; global?: string } = {},
) {
  const address = changes.address ?? `127.0.0.1:${service.port}`;
  const args = ['--address', address, '--ca-file', changes.ca ?? 'ca.pem'];
  if (changes.token === undefined || changes.cert !== undefined)
    args.push(
      ...['--cert-file', changes.cert ?? 'caller.pem'],
      ...['--key-file', changes.key ?? `${changes.cert?.replace(/\.pem$/, '') ?? 'caller'}.key`],
    );
  if (changes.token !== undefined) args.push('--token-file', changes.token);
  const words = `${global} ${command}`.split(' ').filter((word) => word !== '');
  return runHere([...args, ...words], { cwd: folder, env });
}

/** The doctor's report of something that is wrong, and that nothing else is. */
async function wrong(changes: Changes, env?: Record<string, string>): Promise<string> {
  const { code, stdout, stderr } = await keyward('doctor', changes, env && { env });
  assert.equal(code, 1, stdout + stderr);
  assert.match(stderr, /^keyward: not all is well: 1 of \d+ checks failed\n$/, stdout);
  const [line = ''] = /^✗ .*\n {15}\S.*$/m.exec(stdout) ?? [];
  assert.notEqual(line, '', stdout);
  return line;
}

/** Another server's address. */
async function listening(server: Server): Promise<string> {
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  running.defer(() => void server.close());
  return `127.0.0.1:${(server.address() as AddressInfo).port}`;
}

describe('a service that can be called', () => {
  it('passes every check, of what may be done there too', async () => {
    const { code, stdout, stderr } = await keyward(`doctor ${KEY}`);
    assert.deepEqual([code, stderr], [0, ''], stdout);
    const checks = [...stdout.matchAll(/^✓ (\S+)/gm)].map(([, check]) => check);
    const all = 'settings CA certificate name port TLS service clock health caller permissions';
    assert.deepEqual(checks, all.split(' '), stdout);
    assert.match(stdout, new RegExp(`^✓ caller +you are ${TESTER}$`, 'm'));
    assert.match(stdout, /^✓ permissions +on tenants\/acme\/keys\/orders: data\.encrypt, /m);
  });

  it('passes with a token, whose issuer, audience and end are shown, and in JSON', async () => {
    const { code, stdout } = await keyward(
      'doctor',
      { token: write('good.jwt', tokenBy(signer)) },
      { global: '--output json' },
    );
    assert.equal(code, 0, stdout);
    const { passes, findings } = JSON.parse(stdout);
    assert.equal(passes, true);
    const { found } = findings.find(({ check }: { check: string }) => check === 'token');
    assert.match(
      found,
      /^of issuer https:\/\/issuer\.test\/, for audience keyward, subject alice, until 2/,
    );
  });
});

describe('a CA', () => {
  it('that did not issue the server’s certificate is named, also where it has the same name', async () => {
    const other = write('other-ca.pem', createCertificateAuthority('another CA').certPem);
    assert.match(
      await wrong({ ca: other }),
      /^✗ TLS .*\(CN=keyward, until .*\) was not issued by the CA that is given, but by CN=keyward test CA\n.*--ca-file/,
    );
    const same = write('same-name.pem', createCertificateAuthority('keyward test CA').certPem);
    assert.match(await wrong({ ca: same }), /was not issued by the CA that is given/);
  });

  it('in a file that is not PEM, or has something else, is named', async () => {
    assert.match(
      await wrong({ ca: write('text.pem', 'not a certificate\n') }),
      /^✗ CA .*text\.pem has no certificate in PEM\n/,
    );
    const der = write('ca.der', new X509Certificate(environment.ca.certPem).raw);
    assert.match(await wrong({ ca: der }), /ca\.der has .*in DER\n +write it in PEM: openssl x509/);
    assert.match(
      await wrong({ ca: 'caller.key' }),
      /has no certificate in PEM; it has PRIVATE KEY/,
    );
  });
});

describe('a client certificate', () => {
  it('of another CA is named, with its issuer and where the cause is', async () => {
    const other = createCertificateAuthority('a foreign CA');
    identity('foreign', other.issue({ subject: 'foreign', usage: 'client', uris: [TESTER] }));
    assert.match(
      await wrong({ cert: 'foreign.pem' }),
      /^✗ service .*ended the connection when it saw your certificate \(CN=foreign, .*issued by CN=a foreign CA\n.*KEYWARD_TLS_CLIENT_CA_FILE/,
    );
  });

  it('with a key that is not its own is named', async () => {
    identity(
      'second',
      environment.ca.issue({ subject: 'second', usage: 'client', uris: [TESTER] }),
    );
    assert.match(
      await wrong({ cert: 'caller.pem', key: 'second.key' }),
      /^✗ certificate +the key in second\.key is not that of the certificate in caller\.pem\n/,
    );
  });

  it('that has expired is named, with the time', async () => {
    const notAfter = new Date('2020-01-02T03:04:05Z');
    const notBefore = new Date('2020-01-01T00:00:00Z');
    const request = {
      subject: 'old',
      usage: 'client',
      uris: [TESTER],
      notBefore,
      notAfter,
    } as const;
    identity('old', environment.ca.issue(request));
    assert.match(
      await wrong({ cert: 'old.pem' }),
      /^✗ certificate +the certificate in old\.pem expired at 2020-01-02T03:04:05Z\n/,
    );
  });
});

describe('an address', () => {
  const at = async (address: string) => wrong({ address });

  it('that is none, or whose host is not there, is named', async () => {
    assert.match(await at('keyward.example'), /^✗ name +keyward\.example is no address\n/);
    assert.match(
      await at('no-such-host.invalid:7443'),
      /^✗ name +no-such-host\.invalid (has no address in DNS|cannot be looked up: E\w+)\n/,
    );
  });

  it('where nothing listens is named, by other commands in the same words', async () => {
    const server = createTcpServer();
    const address = await listening(server);
    server.close();
    assert.match(await at(address), /^✗ port +nothing listens at 127\.0\.0\.1, port \d+\n/);
    const { code, stderr } = await keyward('whoami', { address });
    assert.equal(code, 3);
    assert.match(
      stderr,
      /^keyward: UNAVAILABLE: nothing listens at 127\.0\.0\.1, port \d+; "keyward doctor" shows more\n$/,
    );
  });

  it('of several that is wrong is named, and the service is found at another', async () => {
    const address = `no-such-host.invalid:7443, 127.0.0.1:${service.port}`;
    const { code, stdout } = await keyward('doctor', { address });
    assert.equal(code, 1);
    assert.match(
      stdout,
      /^✗ name +no-such-host\.invalid .*\n.*\n– port .*\n– TLS .*\n✓ name .*\n✓ port /m,
    );
    assert.match(stdout, /^✓ service +Keyward answers$/m);
  });

  it('where something accepts connections and is silent is named', async () => {
    const address = await listening(createTcpServer(() => {}));
    const { stdout } = await keyward('doctor', { address }, { global: '--timeout 0.5' });
    assert.match(
      stdout,
      /^✗ TLS +something .* accepts connections and answers nothing for 0\.5 s$/m,
    );
  });

  it('where another program listens is named by what it is', async () => {
    const web = createHttpServer((_, response) => response.end('hello'));
    assert.match(await at(await listening(web)), /^✗ TLS +an HTTP server without TLS answers at /);
    const { hostname, port } = new URL(environment.urls.superuser);
    assert.match(await at(`${hostname}:${port}`), /^✗ TLS +PostgreSQL answers at /);
    const ssh = createTcpServer((socket) => socket.on('error', () => {}).write('SSH-2.0-x\r\n'));
    assert.match(await at(await listening(ssh)), /^✗ TLS +an SSH server answers at /);
  });

  it('where another server speaks TLS is named by what it lacks', async () => {
    const { certPem: cert, keyPem: key } = environment.ca.issue({
      subject: 'other',
      usage: 'server',
      ips: ['127.0.0.1'],
    });
    const old = createTlsServer({ cert, key, maxVersion: 'TLSv1.2' });
    assert.match(await at(await listening(old)), /speaks TLS, but not 1\.3: it is not Keyward/);
    const plain = createTlsServer({ cert, key });
    assert.match(await at(await listening(plain)), /does not speak HTTP\/2/);
    const web = createHttp2Server({ cert, key }, (_, response) => response.end('hello'));
    assert.match(
      await at(await listening(web)),
      /^✗ service +a web server answers that is not Key/,
    );
    const grpc = new GrpcServer();
    const pems = [{ cert_chain: Buffer.from(cert), private_key: Buffer.from(key) }];
    const port = await new Promise<number>((resolve, reject) =>
      grpc.bindAsync('127.0.0.1:0', ServerCredentials.createSsl(null, pems), (error, bound) =>
        error === null ? resolve(bound) : reject(error),
      ),
    );
    running.defer(() => grpc.forceShutdown());
    assert.match(
      await at(`127.0.0.1:${port}`),
      /^✗ service +a gRPC server answers that is not Key/,
    );
  });

  it('of the service’s HTTP listener is named as that', async () => {
    assert.match(
      await at(`127.0.0.1:${service.httpPort}`),
      /^✗ service +Keyward’s HTTP listener answers, and the command speaks gRPC\n +check the port/,
    );
  });
});

describe('the server’s certificate', () => {
  const server = async (request: { dns?: string[]; ips?: string[]; notAfter?: Date }) => {
    const notBefore = new Date('2020-01-01T00:00:00Z');
    const issued = environment.ca.issue({ subject: 'its', usage: 'server', notBefore, ...request });
    return listening(createTlsServer({ cert: issued.certPem, key: issued.keyPem }));
  };

  it('that is for other names is named, with these', async () => {
    const address = await server({ dns: ['keyward.internal'], ips: ['10.0.0.7'] });
    assert.match(
      await wrong({ address }),
      /^✗ TLS .*is not for 127\.0\.0\.1, but for DNS:keyward\.internal, IP Address:10\.0\.0\.7\n.*--server-name/,
    );
    const { code, stderr } = await keyward('whoami', { address });
    assert.equal(code, 3);
    assert.match(stderr, /is not for 127\.0\.0\.1, but for DNS:keyward\.internal/);
  });

  it('that has expired is named, with the time', async () => {
    const address = await server({
      ips: ['127.0.0.1'],
      notAfter: new Date('2020-01-02T03:04:05Z'),
    });
    assert.match(
      await wrong({ address }),
      /^✗ TLS .*\(CN=its, until 2020-01-02T03:04:05Z\) has expired\n.*your clock/,
    );
  });
});

describe('a clock', () => {
  it('that is wrong by minutes is named, by how much', async () => {
    const ahead = (ms: number) => ({
      NODE_OPTIONS: `--import=data:text/javascript,const${encodeURIComponent(` now = Date.now; Date.now = () => now() + ${ms}`)}`,
    });
    assert.match(
      await wrong({}, ahead(300_000)),
      /^✗ clock +your clock is 30\d s ahead of the serv/,
    );
    assert.match(
      await wrong({}, ahead(-90_000)),
      /^✗ clock +your clock is (89|9\d) s behind the ser/,
    );
  });
});

describe('a token', () => {
  const token = (changes: TokenChanges) => write('changed.jwt', tokenBy(signer, changes));
  const now = Math.floor(Date.now() / 1000);

  it('that has expired, or is not valid yet, is named with the time, and sent nowhere', async () => {
    const { length } = service.log;
    assert.match(
      await wrong({ token: token({ now: now - 7200 }) }),
      /^✗ token +the token expired at 2[-\dT:]+Z\n/,
    );
    assert.match(
      await wrong({ token: token({ now: now + 7200 }) }),
      /^✗ token +the token is not valid before 2[-\dT:]+Z, and your clock shows 2/,
    );
    const refused = service.log
      .slice(length)
      .filter(({ reason }) => reason === 'CREDENTIALS_INVALID');
    assert.deepEqual(refused, []);
  });

  it('that is none, or is bound to another certificate, is named, and not shown', async () => {
    assert.match(
      await wrong({ token: write('no.jwt', 'secret') }),
      /^✗ token +the token is not a JWT/,
    );
    const thumbprint = createHash('sha256').update('another').digest('base64url');
    const bound = token({ claims: { cnf: { 'x5t#S256': thumbprint } } });
    assert.match(
      await wrong({ token: bound }),
      /^✗ token +the token is bound to a certificate, and/,
    );
    assert.match(
      await wrong({ token: bound, cert: 'caller.pem' }),
      /^✗ token +the token is bound to another certificate than yours\n/,
    );
    assert.match(
      await wrong({ token: token({}), cert: 'caller.pem' }),
      /^✗ token +the token is not bound to your certificate/,
    );
  });

  it('of an issuer that the service does not trust is named by the service', async () => {
    const iss = 'https://elsewhere.example/';
    assert.match(
      await wrong({ token: token({ claims: { iss } }) }),
      /^✗ caller +CREDENTIALS_INVALID: .* issuer \(iss\) is not one that the service trusts/,
    );
  });
});

describe('rights', () => {
  it('that are not there are named, with who sees why', async () => {
    const uris = ['spiffe://example.org/newcomer'];
    identity('newcomer', environment.ca.issue({ subject: 'new', usage: 'client', uris }));
    const { code, stdout } = await keyward(`doctor ${KEY}`, { cert: 'newcomer.pem' });
    assert.equal(code, 1);
    assert.match(
      stdout,
      /^✗ permissions +.*\n +ask an access administrator, who sees why with "key/m,
    );
  });
});

describe('settings', () => {
  it('that are missing are named, and nothing else is looked at', async () => {
    // Not in the clone, where `npm start` may have made profiles.
    const elsewhere = mkdtempSync(join(tmpdir(), 'keyward-doctor-'));
    const { code, stdout } = await runHere(['doctor'], { cwd: elsewhere });
    rmSync(elsewhere, { recursive: true });
    assert.equal(code, 1);
    assert.match(
      stdout,
      /^✗ settings +cannot connect: no address is given; .*\n +see "keyward pro/,
    );
    assert.equal(stdout.trim().split('\n').length, 2);
  });
});

describe('a service that cannot serve', () => {
  it('is named as that', async () => {
    renameSync(join(environment.directory, 'token'), join(environment.directory, 'away'));
    await eventually(async () => {
      for (const pid of service.agentPids) process.kill(pid, 'SIGKILL');
      const { stdout } = await keyward('doctor');
      assert.match(stdout, /^✗ health +the server reports that it cannot serve calls$/m);
    });
  });
});
