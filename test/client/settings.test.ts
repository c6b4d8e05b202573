/** `connect()` without options of a connection: by variables and the profiles of the user. */
import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { chmodSync, mkdirSync, mkdtempSync, realpathSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { after, afterEach, before, it } from 'node:test';
import { fileURLToPath } from 'node:url';
import { status } from '@grpc/grpc-js';
import { type ConnectOptions, connect } from '../../client/src/index.ts';
import { createCertificateAuthority } from '../../dev/certificates.ts';
import {
  type FakeService,
  type Handler,
  refusal,
  startFakeService,
  wireKey,
} from './fake-service.ts';

const KEYWARD = fileURLToPath(new URL('../../cli/src/main.ts', import.meta.url));
const KEY = 'tenants/acme/keys/orders';
const home = realpathSync(mkdtempSync(join(tmpdir(), 'keyward-settings-')));
const work = join(home, 'work');
const before_ = { ...process.env };
const cwd = process.cwd();

/** Who called: the certificate's subject, and the token. */
const callers: { subject: string | undefined; token: unknown }[] = [];
/** It wants a certificate; the other does not, so that a token can take its place. */
let service: FakeService;
let other: FakeService;

const write = (name: string, content: string, mode = 0o600) => {
  const file = join(home, name);
  mkdirSync(dirname(file), { recursive: true });
  writeFileSync(file, content);
  chmodSync(file, mode);
  return file;
};
const writeProfiles = (profiles: object, folder = '.config/keyward') =>
  write(`${folder}/profiles.json`, JSON.stringify({ default: 'one', profiles }));
const setVariables = (variables: Readonly<Record<string, string>>) =>
  Object.assign(process.env, variables);

before(async () => {
  const GetKey: Handler = (_request, call) => {
    const subject = call.getAuthContext().sslPeerCertificate?.subject?.CN as string | undefined;
    callers.push({ subject, token: call.metadata.get('authorization')[0] });
    return wireKey(KEY);
  };
  const ca = createCertificateAuthority('Fake CA');
  service = await startFakeService({ GetKey }, { ca });
  other = await startFakeService({ GetKey }, { ca, wantsCertificate: false });
  write('ca.pem', service.caPem);
  write('cert.pem', service.client.certPem);
  write('key.pem', service.client.keyPem);
  write('token', 'a.b.c\n');
  mkdirSync(work);
});

afterEach(() => {
  for (const name of Object.keys(process.env))
    if (name.startsWith('KEYWARD_') && !(name in before_)) delete process.env[name];
  rmSync(join(home, '.config'), { recursive: true, force: true });
  process.chdir(cwd);
  setVariables({ XDG_CONFIG_HOME: join(home, '.config') });
});

after(async () => {
  await service?.[Symbol.asyncDispose]();
  await other?.[Symbol.asyncDispose]();
  rmSync(home, { recursive: true });
});

setVariables({ XDG_CONFIG_HOME: join(home, '.config') });

/** Calls with what `connect` finds, and returns as whom. */
async function callerBy(options?: Parameters<typeof connect>[0]) {
  await using keyward = connect(options);
  await keyward.getKey({ name: KEY });
  return callers.at(-1);
}

const byCertificate = {
  caFile: '../../ca.pem',
  certFile: '../../cert.pem',
  keyFile: '../../key.pem',
};
const byToken = { caFile: '../../ca.pem', tokenFile: '../../token' };

it('variables name the service and the caller', async () => {
  setVariables({
    KEYWARD_ADDRESS: `127.0.0.1:1,${service.address}`,
    KEYWARD_CA_FILE: join(home, 'ca.pem'),
    KEYWARD_CERT_FILE: join(home, 'cert.pem'),
    KEYWARD_KEY_FILE: join(home, 'key.pem'),
  });
  assert.deepEqual(await callerBy(), { subject: 'test', token: undefined });
});

it('profiles do, the default, by its name or by a variable, and variables come first', async () => {
  const { address } = service;
  writeProfiles({
    one: { address, ...byCertificate },
    two: { address: other.address, ...byToken },
  });
  assert.equal((await callerBy())?.subject, 'test');
  assert.deepEqual(await callerBy({ profile: 'two', retries: 0 }), {
    subject: undefined,
    token: 'Bearer a.b.c',
  });
  setVariables({ KEYWARD_PROFILE: 'two' });
  assert.equal((await callerBy())?.token, 'Bearer a.b.c');
  // A token of its own takes the place of the profile's certificate.
  setVariables({ KEYWARD_PROFILE: 'one', KEYWARD_ADDRESS: other.address });
  setVariables({ KEYWARD_TOKEN_FILE: write('other', 'd.e.f') });
  assert.deepEqual(await callerBy({}), { subject: undefined, token: 'Bearer d.e.f' });
});

it('a variable says how many connections there are, and options come first', async () => {
  setVariables({
    KEYWARD_ADDRESS: service.address,
    KEYWARD_CA_FILE: join(home, 'ca.pem'),
    KEYWARD_CERT_FILE: join(home, 'cert.pem'),
    KEYWARD_KEY_FILE: join(home, 'key.pem'),
    KEYWARD_CONNECTIONS: '2',
  });
  const made: string[] = [];
  const hooks = { onConnection: ({ state }: { state: string }) => made.push(state) };
  for (const options of [{ hooks }, { hooks, connections: 1 }]) {
    await using keyward = connect(options);
    for (let calls = 0; calls < 4; calls += 1) await keyward.getKey({ name: KEY });
  }
  assert.equal(made.filter((state) => state === 'connected').length, 3);
  setVariables({ KEYWARD_CONNECTIONS: 'many' });
  assert.throws(() => connect(), {
    name: 'SettingsError',
    message: 'KEYWARD_CONNECTIONS must be a whole number, 1 to 64',
  });
});

it('a variable says whether calls are held back from a full service, and options come first', async () => {
  await using full = await startFakeService({
    GetKey: () => {
      throw refusal({ code: status.RESOURCE_EXHAUSTED, reason: 'SERVER_BUSY' });
    },
  });
  setVariables({
    KEYWARD_ADDRESS: full.address,
    KEYWARD_CA_FILE: write('full-ca.pem', full.caPem),
    KEYWARD_CERT_FILE: write('full-cert.pem', full.client.certPem),
    KEYWARD_KEY_FILE: write('full-key.pem', full.client.keyPem),
  });
  const sentOf40 = async (options: { readonly throttle?: boolean }) => {
    const before = full.calls.get('GetKey') ?? 0;
    using keyward = connect({ ...options, retries: 0 });
    for (let calls = 0; calls < 40; calls += 1) await keyward.getKey({ name: KEY }).catch(() => {});
    return (full.calls.get('GetKey') ?? 0) - before;
  };
  assert.ok((await sentOf40({})) < 40);
  assert.equal(await sentOf40({ throttle: false }), 40);
  setVariables({ KEYWARD_THROTTLE: 'false' });
  assert.equal(await sentOf40({}), 40);
  assert.ok((await sentOf40({ throttle: true })) < 40);
  setVariables({ KEYWARD_THROTTLE: 'off' });
  assert.throws(() => connect(), {
    name: 'SettingsError',
    message: 'KEYWARD_THROTTLE must be true or false',
  });
});

it('options that name a service get nothing of the environment', async () => {
  setVariables({ KEYWARD_TOKEN_FILE: join(home, 'token'), KEYWARD_SERVER_NAME: 'elsewhere' });
  const { address, caPem: ca, client } = service;
  const { certPem: cert, keyPem: key } = client;
  assert.deepEqual(await callerBy({ address, ca, cert, key }), {
    subject: 'test',
    token: undefined,
  });
  assert.throws(() => connect({ address, ca } as unknown as ConnectOptions), {
    name: 'TypeError',
    message: 'cert or certFile must be given',
  });
  // Left out, the certificate alone would call.
  const withFile = { address, ca, cert, key, tokenFile: join(home, 'token') };
  assert.throws(() => connect(withFile), {
    name: 'TypeError',
    message: 'connect() takes no tokenFile: give token, a function that reads the file',
  });
  const mixed = { address, profile: 'one' } as unknown as ConnectOptions;
  assert.throws(() => connect(mixed), {
    name: 'TypeError',
    message: /^profile and address exclude/,
  });
});

it('a folder’s profiles are used only where the user has allowed them, as they are', async () => {
  const { address } = service;
  for (const name of ['ca.pem', 'cert.pem', 'key.pem'])
    write(
      `work/.keyward/${name}`,
      {
        'ca.pem': service.caPem,
        'cert.pem': service.client.certPem,
        'key.pem': service.client.keyPem,
      }[name] ?? '',
    );
  const own = { address, caFile: 'ca.pem', certFile: 'cert.pem', keyFile: 'key.pem' };
  writeProfiles({ one: own }, 'work/.keyward');
  process.chdir(work);
  const notAllowed = {
    name: 'SettingsError',
    message: /you have not allowed it; .*profiles allow/,
  };
  assert.throws(() => connect(), notAllowed);
  const allowed = spawnSync(process.execPath, [KEYWARD, 'profiles', 'allow'], { encoding: 'utf8' });
  assert.equal(allowed.status, 0, allowed.stderr);
  assert.equal((await callerBy())?.subject, 'test');
  writeProfiles({ one: { ...own, address: 'elsewhere:1' } }, 'work/.keyward');
  assert.throws(() => connect(), { message: /it has changed since you allowed it/ });
  rmSync(join(work, '.keyward'), { recursive: true });
});

it('what is missing or not usable is named, with where it is set', () => {
  const { address } = service;
  const throws = (message: RegExp, options?: Parameters<typeof connect>[0]) =>
    assert.throws(() => connect(options), { name: 'SettingsError', message });
  process.chdir(work);
  throws(/^cannot connect: no address is given; give address to connect\(\), set KEYWARD_ADDRESS,/);
  throws(/^cannot use the profile one: there is no .*profiles.json$/, { profile: 'one' });
  const file = writeProfiles({
    one: { address, caFile: '../../none.pem', ...{ tokenFile: '../../token' } },
    person: { address, caFile: '../../ca.pem', issuer: 'https://login.example', clientId: 'a' },
    half: { address, caFile: '../../ca.pem', certFile: '../../cert.pem' },
    gone: { ...byToken, address, tokenFile: '../../no-token' },
  });
  throws(/^cannot read .*\/none\.pem: it does not exist$/);
  throws(/^cannot connect as the profile person: it is of a person who signs in/, {
    profile: 'person',
  });
  throws(
    /^cannot connect: the profile half lacks keyFile; add it, or give keyFile to connect\(\)$/,
    {
      profile: 'half',
    },
  );
  throws(/^cannot read .*\/no-token: it does not exist$/, { profile: 'gone' });
  throws(/it has one, person, half, gone$/, { profile: 'other' });
  chmodSync(file, 0o666);
  throws(/profiles\.json: others can change it; chmod go-w it$/);
});
