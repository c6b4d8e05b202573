/**
 * The callers that `npm start` makes: what each may do and may not, on a real service, and that
 * their files stay good.
 */
import assert from 'node:assert/strict';
import { mkdirSync, readdirSync, readFileSync, statSync } from 'node:fs';
import { join } from 'node:path';
import { after, before, describe, it, mock } from 'node:test';
import { type ConnectOptions, connect, type KeywardClient } from 'keyward-client';
import { environmentPaths, openCertificates } from '../../dev/environment.ts';
import {
  appointAdministrator,
  grantRoles,
  type Identities,
  identitiesOf,
  isAdministrator,
  keepTokens,
  PRINCIPALS,
  writeProfiles,
} from '../../dev/identities.ts';
import { type Issuers, openIssuers, TOKEN_LIFETIME_SECONDS } from '../../dev/issuers.ts';
import { type DevelopmentProvider, startProvider } from '../../dev/provider.ts';
import { Reader, signingIn } from '../cli/browser.ts';
import { runHere as run } from '../cli/here.ts';
import {
  type Environment,
  eventually,
  newEnvironment,
  reasonOf,
  type Service,
  startService,
} from '../support/kit.ts';

const DEMO = 'tenants/demo';
const KEY = `${DEMO}/keys/demo`;
const plaintext = Buffer.from('p');

describe('the callers in development', () => {
  let environment: Environment;
  let service: Service;
  let paths: ReturnType<typeof environmentPaths>;
  let issuers: Issuers;
  let identities: Identities;
  let variables: Record<string, string>;
  let tokens: Disposable;
  let provider: DevelopmentProvider;
  const clients: KeywardClient[] = [];

  const as = (options: ConnectOptions): KeywardClient => {
    const client = connect({ ...options, retries: 0 });
    clients.push(client);
    return client;
  };
  const tokenOf = (name: 'service' | 'auditor') =>
    readFileSync(identities[name].tokenFile, 'utf8').trim();
  const admin = () => as(identities.admin);
  const asService = () => as({ ...identities.service, token: tokenOf('service') });
  const auditor = () => as({ ...identities.auditor, token: tokenOf('auditor') });

  before(async () => {
    environment = await newEnvironment();
    paths = environmentPaths(environment.directory);
    mkdirSync(paths.directory, { mode: 0o700 });
    const certificates = openCertificates(paths.certificates);
    provider = await startProvider({ folder: paths.provider, port: 0 });
    issuers = openIssuers(paths.issuers, provider.issuer);
    variables = {
      KEYWARD_MODE: 'development',
      KEYWARD_TLS_CERT_FILE: certificates.server.cert,
      KEYWARD_TLS_KEY_FILE: certificates.server.key,
      KEYWARD_TLS_CLIENT_CA_FILE: certificates.ca.cert,
      KEYWARD_ISSUERS_FILE: issuers.file,
    };
    service = await startService(environment, {
      ...variables,
      KEYWARD_FIRST_ADMINISTRATOR: PRINCIPALS.firstAdministrator,
    });
    identities = identitiesOf(`127.0.0.1:${service.port}`, { certificates, tokens: paths.tokens });
    writeProfiles(paths.directory, paths.profilesFile, identities, provider.issuer);
    tokens = await keepTokens(issuers, identities, assert.ifError);
  });

  after(async () => {
    tokens?.[Symbol.dispose]();
    for (const client of clients) client.close();
    await service?.stop();
    await provider?.[Symbol.asyncDispose]();
    await environment?.[Symbol.asyncDispose]();
  });

  it('have roles given by a first administrator, once: again changes nothing', async () => {
    const first = as(identities.firstAdministrator);
    assert.equal(await isAdministrator(admin()), false);
    await appointAdministrator(first);
    assert.equal(await isAdministrator(admin()), true);
    await admin().createTenant({ tenantId: 'demo' });
    await admin().createKey({ parent: DEMO, keyId: 'demo' });
    await grantRoles(admin());
    const bindings = () =>
      Promise.all(
        ['tenants/system', DEMO].map(
          async (parent) => (await admin().listRoleBindings({ parent })).roleBindings,
        ),
      );
    const made = await bindings();
    await appointAdministrator(first);
    await grantRoles(admin());
    assert.deepEqual(await bindings(), made);
  });

  it('are an administrator who uses no key', async () => {
    const { ciphertext } = await asService().encrypt({ name: KEY, plaintext });
    assert.equal(await reasonOf(admin().encrypt({ name: KEY, plaintext })), 'PERMISSION_MISSING');
    assert.equal(
      await reasonOf(admin().decrypt({ parent: DEMO, ciphertext })),
      'PERMISSION_MISSING',
    );
    await admin().rotateKey({ name: KEY });
    await admin().createTenant({ tenantId: 'another' });
    await admin().createKey({ parent: 'tenants/another', keyId: 'k' });
    assert.equal(
      (await asService().decrypt({ parent: DEMO, ciphertext })).plaintext.toString(),
      'p',
    );
  });

  it('are a service that administers none, and knows no tenant but its own', async () => {
    assert.equal((await asService().getCaller()).name, 'jwt:dev-services/service');
    assert.equal(await reasonOf(asService().rotateKey({ name: KEY })), 'PERMISSION_MISSING');
    assert.equal(await reasonOf(asService().listKeys({ parent: DEMO })), 'PERMISSION_MISSING');
    assert.equal(
      await reasonOf(asService().getTenant({ name: 'tenants/another' })),
      'RESOURCE_NOT_FOUND',
    );
    const { tokenFile: _, ...certificate } = identities.service;
    assert.equal(
      await reasonOf(as(certificate).encrypt({ name: KEY, plaintext })),
      'RESOURCE_NOT_FOUND',
      'no token',
    );
    const { caFile, address } = identities.service;
    const stolen = as({ caFile, address, token: tokenOf('service') });
    assert.equal(await reasonOf(stolen.encrypt({ name: KEY, plaintext })), 'TOKEN_NOT_BOUND');
  });

  it('are an auditor who sees everything of every tenant, and no data', async () => {
    assert.deepEqual((await auditor().getCaller()).groups, ['dev-people/auditors']);
    const { tenants } = await auditor().listTenants();
    for (const { name } of tenants) await auditor().listRoleBindings({ parent: name });
    await auditor().getKey({ name: KEY });
    const { ciphertext } = await asService().encrypt({ name: KEY, plaintext });
    assert.equal(
      await reasonOf(auditor().decrypt({ parent: DEMO, ciphertext })),
      'PERMISSION_MISSING',
    );
    assert.equal(await reasonOf(auditor().rotateKey({ name: KEY })), 'PERMISSION_MISSING');
  });

  it('are those that the command knows by profiles', async () => {
    const cwd = environment.directory;
    assert.equal((await run(['profiles', 'allow'], { cwd })).code, 0);
    const encrypted = await run(['--profile', 'service', 'encrypt', KEY], { cwd, input: 'hello' });
    assert.deepEqual([encrypted.code, encrypted.stderr], [0, '']);
    const decrypt = (profile: string) =>
      run(['--profile', profile, 'decrypt', '--tenant', 'demo'], { cwd, input: encrypted.bytes });
    assert.equal((await decrypt('service')).stdout, 'hello');
    assert.match((await decrypt('admin')).stderr, /^keyward: PERMISSION_MISSING/);
    assert.equal((await run(['--profile', 'auditor', 'tenants', 'list'], { cwd })).code, 0);
    assert.match((await run(['whoami'], { cwd })).stdout, /development\/admin/);
  });

  it('are people who sign in, each with the rights of their group', async () => {
    const cwd = environment.directory;
    const may = async (person: string, ...args: string[]) => {
      const { code, stderr } = await run(['--profile', person, ...args], { cwd });
      return code === 0 || /^keyward: (PERMISSION_MISSING|RESOURCE_NOT_FOUND)/.exec(stderr)?.[1];
    };
    for (const person of ['alice', 'bob', 'carol', 'oscar']) {
      const reader = new Reader(signingIn({ person }));
      const args = ['--profile', person, 'login', '--no-browser'];
      const { stdout } = await run(args, { cwd, heard: reader.heard });
      await reader.done();
      assert.match(stdout, new RegExp(`^Signed in as jwt:dev-sign-in/${person}\\.\n`));
    }
    for (const administrator of ['alice', 'bob']) {
      assert.equal(await may(administrator, 'tenants', 'create', `of-${administrator}`), true);
      assert.equal(await may(administrator, 'keys', 'rotate', KEY), true);
    }
    assert.equal(await may('carol', 'access', 'bindings', 'demo'), true);
    assert.equal(await may('carol', 'keys', 'rotate', KEY), 'PERMISSION_MISSING');
    assert.equal(await may('oscar', 'keys', 'rotate', KEY), true);
    assert.equal(await may('oscar', 'keys', 'list', 'tenants/of-bob'), 'RESOURCE_NOT_FOUND');
  });

  it('stay without a first administrator, and their tokens are worth nothing in production', async () => {
    await service.stop();
    service = await startService(environment, {
      ...variables,
      KEYWARD_LISTEN: identities.admin.address,
    });
    assert.ok(!service.log.some((line) => 'firstAdministrator' in line));
    assert.equal(await isAdministrator(admin()), true);
    const first = as(identities.firstAdministrator);
    assert.equal(await reasonOf(appointAdministrator(first)), 'PERMISSION_MISSING');
    await asService().encrypt({ name: KEY, plaintext });
    await service.stop();
    service = await startService(environment, {
      ...variables,
      KEYWARD_LISTEN: identities.admin.address,
      KEYWARD_MODE: 'production',
    });
    await admin().getKey({ name: KEY });
    for (const client of [asService(), auditor()])
      assert.equal(await reasonOf(client.getKey({ name: KEY })), 'CREDENTIALS_INVALID');
    await service.logged(({ cause }) => /the token is for development/.test(String(cause)));
  });

  it('have files that nobody else can read, whole at every moment', () => {
    const files = [...Object.values(paths.tokens), paths.profilesFile, issuers.file];
    for (const file of files) assert.equal(statSync(file).mode & 0o777, 0o600, file);
    for (const folder of ['tokens', 'issuers'])
      assert.ok(readdirSync(join(paths.directory, folder)).every((name) => !name.endsWith('.new')));
    assert.equal(statSync(join(paths.issuers, 'key.pem')).mode & 0o777, 0o600);
    assert.doesNotMatch(readFileSync(join(paths.issuers, 'jwks.json'), 'utf8'), /"d"/);
  });

  it('have new tokens long before the old ones expire, by the same key after a new start', async () => {
    const claims = (token: string) =>
      JSON.parse(Buffer.from(token.split('.')[1] ?? '', 'base64url').toString()) as Record<
        string,
        number
      >;
    const kept = readFileSync(join(paths.issuers, 'jwks.json'), 'utf8');
    const again = openIssuers(paths.issuers);
    assert.equal(readFileSync(join(paths.issuers, 'jwks.json'), 'utf8'), kept);
    mock.timers.enable({ apis: ['setInterval', 'Date'], now: Date.now() });
    try {
      using _ = await keepTokens(again, identities, assert.ifError);
      const first = tokenOf('service');
      const { exp = 0, iat = 0 } = claims(first);
      assert.equal(exp - iat, TOKEN_LIFETIME_SECONDS);
      assert.ok(TOKEN_LIFETIME_SECONDS <= 3600);
      mock.timers.tick(60_000);
      assert.equal(tokenOf('service'), first);
      mock.timers.tick((TOKEN_LIFETIME_SECONDS / 2) * 1000);
      for (const name of ['service', 'auditor'] as const)
        await eventually(() => assert.ok((claims(tokenOf(name))['exp'] ?? 0) > exp));
    } finally {
      mock.timers.reset();
    }
  });
});
