import assert from 'node:assert/strict';
import { createDecipheriv } from 'node:crypto';
import { mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { after, before, describe, it } from 'node:test';
import type { KeywardClient } from 'keyward-client';
import { AUDIENCE, ISSUER, signingKey } from '../access/issuer.ts';
import {
  type Environment,
  eventually,
  newEnvironment,
  type Service,
  startService,
} from '../support/kit.ts';
import { TESTER } from '../support/tester.ts';
import { runHere } from './here.ts';
import { type Outcome, writeUsersProfiles } from './run.ts';

const KEY = 'tenants/acme/keys/orders';

describe('the keyward command against the service', () => {
  let environment: Environment;
  let service: Service;
  let folder: string;
  let client: KeywardClient;

  async function keyward(args: string, input: string | Uint8Array = ''): Promise<Outcome> {
    return runHere(args.split(' '), { cwd: folder, input });
  }

  /** What a test stands on and is not about is made without the command, which costs more. */
  const createKey = (name: string) => {
    const parts = name.split('/');
    return client.createKey({ parent: parts.slice(0, 2).join('/'), keyId: parts[3] ?? '' });
  };

  /** Runs what must succeed. */
  async function done(args: string, input: string | Uint8Array = ''): Promise<Outcome> {
    const outcome = await keyward(args, input);
    assert.deepEqual([outcome.code, outcome.stderr], [0, ''], args);
    return outcome;
  }

  before(async () => {
    environment = await newEnvironment();
    const jwksFile = join(environment.directory, 'jwks.json');
    const issuersFile = join(environment.directory, 'issuers.json');
    writeFileSync(jwksFile, JSON.stringify({ keys: [signingKey('key-1').jwk] }));
    const issuer = { name: 'corp', issuer: ISSUER, audience: AUDIENCE, algorithms: ['ES256'] };
    writeFileSync(issuersFile, JSON.stringify({ issuers: [{ ...issuer, jwksFile }] }));
    // So that what is to be seen of the service's own doing is there soon.
    service = await startService(environment, {
      KEYWARD_MAINTENANCE_TICKS: '* * * * * *',
      KEYWARD_MAINTENANCE_JITTER_MS: '0',
      KEYWARD_USAGE_REPORT_MS: '200',
      KEYWARD_ISSUERS_FILE: issuersFile,
    });
    client = service.client();
    folder = join(environment.directory, 'cli');
    mkdirSync(folder);
    writeProfiles({ cli: TESTER });
  });

  /** Gives each of these callers a certificate, and a profile; the first is the default. */
  function writeProfiles(callers: Readonly<Record<string, string>>): void {
    const contents = Object.entries(callers).map(([name, caller]) => {
      const { certPem: cert, keyPem: key } = environment.ca.issue({
        subject: name,
        usage: 'client',
        uris: [caller],
      });
      return [
        name,
        { address: `127.0.0.1:${service.port}`, ca: environment.ca.certPem, cert, key },
      ];
    });
    writeUsersProfiles(folder, Object.fromEntries(contents));
  }

  after(async () => {
    await service?.[Symbol.asyncDispose]();
    await environment?.[Symbol.asyncDispose]();
  });

  it('lays canaries of each kind, and suspends who opens one, which can be lifted', async () => {
    const suspect = 'spiffe://acme/suspect';
    writeProfiles({ cli: TESTER, suspect });
    await client.createTenant({ tenantId: 'laid' });
    const key = 'tenants/laid/keys/k';
    await createKey(key);
    const made = await done(
      `canaries create ${key} --id c1 --length 20 --suspend-caller --output json`,
    );
    const { canary, ciphertext } = JSON.parse(made.stdout);
    const bytes = Buffer.from(ciphertext, 'base64');
    assert.deepEqual([bytes.length, canary.suspendsCaller], [116 + 20, true]);
    const opened = await keyward('--profile suspect decrypt --tenant laid', bytes);
    assert.match(opened.stderr, /^keyward: RESOURCE_NOT_FOUND: /);

    const file = join(folder, 'laid');
    const wrapped = 'canaries create k --tenant laid --id c2 --kind wrapped-data-key';
    await done(`${wrapped} --description everywhere --out ${file}`);
    assert.equal(readFileSync(file).length, 116 + 32);
    assert.equal((await keyward(`${wrapped} --out ${file}`)).code, 2);
    assert.match(
      (await done(`canaries create ${key} --id c3 --kind stored-data-key --data-key-id db`)).stdout,
      /tenants\/laid\/canaries\/c3 +tenants\/laid\/keys\/k\/dataKeys\/db/,
    );
    const listed = (await done('canaries list laid')).stdout;
    assert.match(
      listed,
      /canaries\/c1 +CIPHERTEXT +tenants\/laid\/keys\/k +yes\n.*WRAPPED_DATA_KEY/,
    );
    const taken = `canaries create ${key} --kind stored-data-key --data-key-id db`;
    assert.match((await keyward(taken)).stderr, /cannot create db: it already exists/);
    for (const [other, says] of [
      [`${taken} --out ${file}`, /cannot use --out: a stored data key has no bytes to lay out/],
      [
        `canaries create ${key} --data-key-id db`,
        /--data-key-id: it is for --kind stored-data-key/,
      ],
    ] as const) {
      const refused = await keyward(other);
      assert.equal(refused.code, 2);
      assert.match(refused.stderr, says);
    }
    await done('canaries delete tenants/laid/canaries/c2');
    assert.equal((await keyward('canaries get c2 --tenant laid')).code, 1);

    const suspended = await eventually(async () => {
      const [own] = JSON.parse((await done('suspensions list laid --output json')).stdout);
      assert.equal(own?.caller, suspect);
      return own;
    });
    assert.equal(suspended.canary, 'tenants/laid/canaries/c1');
    await done(`suspensions lift ${suspended.name}`);
    assert.match(
      (await done(`suspensions add laid ${suspect} --description incident`)).stdout,
      /tenants\/laid\/suspensions\/s[0-9a-f]{32} +spiffe:\/\/acme\/suspect .*incident\n$/,
    );
    const again = await keyward(`suspensions add ${suspect} --tenant laid`);
    assert.equal(again.code, 0);
    assert.match(again.stderr, /nothing to do: this caller is suspended already/);
    assert.match(again.stdout, /suspect .*incident\n$/);
    assert.match((await keyward('suspensions add laid suspect')).stderr, /warning: no caller can/);
    const { name: me } = JSON.parse((await done('whoami --output json')).stdout);
    const own = await keyward(`suspensions add laid ${me}`);
    assert.equal(own.code, 2);
    assert.match(own.stderr, /that is you/);
    await done(`suspensions lift ${suspect} --tenant laid`);
    const lifted = await keyward(`suspensions lift ${suspect} --tenant laid`);
    assert.equal(lifted.code, 1);
    assert.match(
      lifted.stderr,
      /tenants\/laid has none of spiffe:\/\/acme\/suspect; one in system/,
    );
  });

  it('makes a tenant and a key, encrypts, rotates, and opens what was encrypted before', async () => {
    await done('tenants create acme');
    await done(`keys create ${KEY}`);
    const secret = Buffer.from(Array.from({ length: 256 }, (_, i) => i));
    const context = '--context order=17 --context __proto__=polluted';
    const { stdout } = await done(`encrypt ${KEY} ${context}`, secret);
    assert.match((await done(`keys rotate ${KEY}`)).stdout, /acme\/keys\/orders +2 +ENABLED/);
    assert.deepEqual((await done(`decrypt --tenant acme ${context}`, stdout)).bytes, secret);
    assert.deepEqual((await done(`decrypt --key ${KEY} ${context}`, stdout)).bytes, secret);

    const wrong = await keyward('decrypt --tenant acme --context order=17', stdout);
    assert.deepEqual([wrong.code, wrong.stdout], [1, '']);
    assert.match(wrong.stderr, /^keyward: DECRYPTION_FAILED: .*\(request [0-9a-f-]{36}\)\n$/);

    const versions = JSON.parse((await done(`keys versions ${KEY} --output json`)).stdout);
    assert.deepEqual(
      versions.map(({ name, state }: { name: string; state: string }) => [name, state]),
      [
        [`${KEY}/versions/2`, 'ENABLED'],
        [`${KEY}/versions/1`, 'ENABLED'],
      ],
    );
    const tenants = JSON.parse((await done('tenants list --output json')).stdout);
    assert.ok(tenants.some(({ name }: { name: string }) => name === 'tenants/acme'));
    assert.match((await done('keys list acme')).stdout, /tenants\/acme\/keys\/orders/);
    assert.match(
      (await done('keys get --tenant acme orders')).stdout,
      /tenants\/acme\/keys\/orders/,
    );
    assert.match((await done('tenants get acme')).stdout, /tenants\/acme/);
  });

  it('carries the smallest and the largest plaintext', async () => {
    await client.createTenant({ tenantId: 'sizes' });
    await createKey('tenants/sizes/keys/k');
    for (const size of [0, 65_536]) {
      const plaintext = Buffer.alloc(size, 0xa5);
      const { stdout } = await done('encrypt tenants/sizes/keys/k', plaintext);
      const { bytes } = await done('decrypt --tenant sizes', stdout);
      assert.ok(bytes.equals(plaintext));
    }
  });

  it('issues a data key that opens again', async () => {
    await client.createTenant({ tenantId: 'data' });
    await createKey('tenants/data/keys/k');
    await done(
      'data-key tenants/data/keys/k --plaintext-out key --wrapped-out wrapped --context a=b',
    );
    const { bytes } = await done('decrypt --tenant data --in wrapped --context a=b');
    assert.deepEqual(bytes, readFileSync(join(folder, 'key')));
    assert.doesNotThrow(() =>
      createDecipheriv('aes-256-gcm', bytes, Buffer.alloc(12), { authTagLength: 16 }),
    );
  });

  it('sets what a tenant may use, and says what is used up', async () => {
    await client.createTenant({ tenantId: 'small' });
    const { stdout } = await done('tenants update small --keys 1 --stored-data-keys 20');
    assert.match(stdout, / 1 keys, 20 data keys\n$/);
    await createKey('tenants/small/keys/k');
    const { code, stderr } = await keyward('keys create tenants/small/keys/another');
    assert.equal(code, 1);
    assert.match(stderr, /^keyward: QUOTA_EXCEEDED: .* quota of keys is used up \(1\)/);
    assert.match((await done('tenants update small --keys 0')).stdout, / 20 data keys\n$/);
    await createKey('tenants/small/keys/another');
  });

  it('switches keys, versions and tenants off and on again', async () => {
    const key = 'tenants/switched/keys/k';
    await client.createTenant({ tenantId: 'switched' });
    await createKey(key);
    const sealed = (await done(`encrypt ${key}`, 'p')).stdout;
    await done(`keys rotate ${key}`);
    const cases: [off: string, on: string, state: RegExp, refused: RegExp][] = [
      [`keys disable ${key}`, `keys enable ${key}`, / 2 +DISABLED /, /^keyward: KEY_NOT_ENABLED/],
      [
        'keys version disable k/versions/1 --tenant switched',
        `keys version enable ${key}/versions/1`,
        /versions\/1 +DISABLED /,
        /^keyward: KEY_VERSION_NOT_ENABLED/,
      ],
      [
        'tenants disable switched',
        'tenants enable switched',
        /DISABLED/,
        /^keyward: TENANT_DISABLED/,
      ],
    ];
    for (const [off, on, state, refused] of cases) {
      assert.match((await done(off)).stdout, state);
      const { code, stderr } = await keyward('decrypt --tenant switched', sealed);
      assert.equal(code, 1, off);
      assert.match(stderr, refused);
      assert.match((await done(on)).stdout, /ENABLED/);
      assert.equal((await done('decrypt --tenant switched', sealed)).stdout, 'p');
    }
    await done('tenants disable switched');
    const off = await done('tenants list --filter state=DISABLED');
    assert.match(off.stdout, /^NAME[^\n]+\ntenants\/switched +DISABLED[^\n]+\n$/);
  });

  it('describes and labels keys, finds them by it, and refuses an etag that is old', async () => {
    await client.createTenant({ tenantId: 'described' });
    await done('keys create tenants/described/keys/k --label team=red --label env=test');
    await done('keys create tenants/described/keys/other --label team=blue');
    const key = 'tenants/described/keys/k';
    const { etag } = JSON.parse((await done(`keys get ${key} --output json`)).stdout);
    const args = `keys update ${key} --description text --label env=prod --remove-label team --output json`;
    const updated = JSON.parse((await done(args)).stdout);
    assert.deepEqual([updated.description, updated.labels], ['text', { env: 'prod' }]);
    const late = await keyward(`keys update ${key} --label env=late --etag ${etag}`);
    assert.match(late.stderr, /^keyward: ETAG_MISMATCH: cannot change tenants\S+keys\/k: it has /);
    const none = await keyward('keys list described --filter labels.env=none');
    assert.deepEqual([none.stdout, none.stderr], ['', 'keyward: no keys\n']);
    const found = await done('keys list described --filter labels.env=prod');
    assert.match(found.stdout, /^NAME[^\n]+\n\S+keys\/k [^\n]+ env=prod +text\n$/);
    const requestId = '3f1d2c4b-5a69-4788-96a5-b4c3d2e1f001';
    for (let time = 0; time < 2; time++) await done(`keys rotate ${key} --request-id ${requestId}`);
    assert.match((await done(`keys get ${key}`)).stdout, / 2 +ENABLED/);
  });

  it('re-encrypts under the new primary and another context, and makes random bytes', async () => {
    const key = 'tenants/renewed/keys/k';
    await client.createTenant({ tenantId: 'renewed' });
    await createKey(key);
    const sealed = (await done(`encrypt ${key} --context a=b`, 'p')).stdout;
    await done(`keys rotate ${key}`);
    const args = `re-encrypt ${key} --context a=b --new-context c=d --output json`;
    const renewed = JSON.parse((await done(args, sealed)).stdout);
    assert.deepEqual(
      [renewed.sourceKeyVersion, renewed.keyVersion],
      [`${key}/versions/1`, `${key}/versions/2`],
    );
    const opened = await done('decrypt --tenant renewed --context c=d', renewed.ciphertext);
    assert.equal(opened.stdout, 'p');
    const issued = JSON.parse(
      (await done(`data-key ${key} --without-plaintext --length 64`)).stdout,
    );
    const dataKey = await done('decrypt --tenant renewed', issued.wrappedDataKey);
    assert.equal(dataKey.bytes.length, 64);
    assert.equal((await done('random 1024 --tenant renewed --raw')).bytes.length, 1024);
  });

  it('keeps data keys, brings them under a new version, and shows what was done and what would be lost', async () => {
    const key = 'tenants/kept/keys/k';
    await client.createTenant({ tenantId: 'kept' });
    await done(`keys create ${key} --rotation-period 90d --usage-limit 1000000`);
    for (const id of ['a', 'b', 'c']) {
      await done(
        `stored-data-keys create ${key} --id ${id} --context use=${id} --plaintext-out kept-${id}`,
      );
    }
    const { stdout } = await done(`keys rotate ${key} --watch`);
    assert.match(stdout, /^NAME[^\n]+\ntenants\/kept\/rewrapJobs\/[^\n]+ SUCCEEDED +3 +3 +0 +0 /);
    const args = `stored-data-keys get ${key}/dataKeys/b --context use=b`;
    const opened = await done(`${args} --plaintext-out -`);
    assert.deepEqual(opened.bytes, readFileSync(join(folder, 'kept-b')));
    assert.match((await done(args)).stdout, /dataKeys\/b +2 +32 /);
    assert.match(
      (await keyward(args.replace('use=b', 'use=c'))).stderr,
      /^keyward: DECRYPTION_FAILED/,
    );
    const history = await done('keys history k --tenant kept');
    assert.match(
      history.stdout,
      /^ROTATED[^\n]+\n[^ ]+ +1 +2 +REQUEST +SUCCEEDED +3 +0 +0 [^\n]+\n$/,
    );
    const jobs = JSON.parse((await done('jobs list kept --output json')).stdout);
    assert.deepEqual([jobs.length, jobs[0].state, jobs[0].done], [1, 'SUCCEEDED', 3]);

    const shown = (await done(`stored-data-keys delete ${key}/dataKeys/c`)).stdout;
    assert.match((await done(`stored-data-keys list ${key}`)).stdout, /dataKeys\/c /);
    const [, confirm] = /\n {2}keyward (stored-data-keys delete .*)\n$/.exec(shown) ?? [];
    await done(confirm ?? '');
    assert.doesNotMatch((await done(`stored-data-keys list ${key}`)).stdout, /dataKeys\/c /);
    const preview = await done(`keys destroy ${key} --window 7d`);
    assert.match(preview.stdout, /key versions +2\n +stored data keys +2\n/);
    const command =
      preview.stdout
        .trimEnd()
        .split('\n')
        .at(-1)
        ?.replace(/^ +keyward /, '') ?? '';
    assert.match((await done(command)).stdout, / DESTROY_SCHEDULED \(20[^\n]+/);
    const refused = /^keyward: KEY_NOT_ENABLED: cannot use the key tenants\S+: it is not enabled; /;
    assert.match((await keyward(args)).stderr, refused);
    assert.match((await done(`keys restore ${key}`)).stdout, / DISABLED /);
    await done(`keys enable ${key}`);
    await done(args);
  });

  it('destroys a version that nothing is under any more, and not the primary', async () => {
    const key = 'tenants/worn/keys/k';
    await client.createTenant({ tenantId: 'worn' });
    await createKey(key);
    await done(`encrypt ${key}`, 'p');
    await done(`keys rotate ${key} --watch`);
    const primary = await keyward(`keys version destroy ${key}/versions/2`);
    assert.deepEqual([primary.code, /KEY_VERSION_IS_PRIMARY/.test(primary.stderr)], [1, true]);
    await eventually(async () => {
      assert.match(
        (await done(`keys versions ${key}`)).stdout,
        /versions\/1 .* 1 +20\S+Z +0 +never\n$/,
      );
    });
    const { impact } = JSON.parse(
      (await done(`keys version destroy ${key}/versions/1 --output json`)).stdout,
    );
    assert.deepEqual([impact.keyVersions, impact.storedDataKeys], [1, 0]);
    assert.equal(impact.usage.encryptOperations, 1);
    const late = await keyward(`keys version destroy ${key}/versions/1 --confirm wrong`);
    assert.match(late.stderr, /^keyward: ETAG_MISMATCH/);
    const scheduled = await done(`keys version destroy ${key}/versions/1 --confirm ${impact.etag}`);
    assert.match(scheduled.stdout, /versions\/1 +DESTROY_SCHEDULED \(/);
    assert.match(
      (await done(`keys version restore ${key}/versions/1`)).stdout,
      /versions\/1 +DISABLED /,
    );
  });

  it('changes schedules, and has maintenance stand still', async () => {
    const key = 'tenants/timed/keys/k';
    await client.createTenant({ tenantId: 'timed' });
    await done(`keys create ${key} --rotation-period 30d`);
    const next = '2099-01-01T00:00:00Z';
    const { stdout } = await done(
      `keys schedule ${key} --period 90d --next ${next} --usage-limit 5000`,
    );
    assert.match(stdout, / ENABLED +90d +2099-01-01T00:00:00\.000Z +5000 +ON\n$/);
    assert.match(
      (await done(`keys schedule ${key} --no-period`)).stdout,
      / none +never +5000 +ON\n$/,
    );
    assert.match((await done(`keys pause ${key}`)).stdout, / PAUSED\n$/);
    await done(`stored-data-keys create ${key}`);
    await done(`keys rotate ${key}`);
    const [{ rewrapJob }] = JSON.parse((await done(`keys history ${key} --output json`)).stdout);
    assert.match((await done(`jobs get ${rewrapJob}`)).stdout, / RUNNING \(PAUSED\) /);
    await done(`jobs cancel ${rewrapJob}`);
    const watched = await keyward(`jobs watch ${rewrapJob}`);
    assert.deepEqual([watched.code, watched.stderr], [1, 'keyward: the job was cancelled\n']);
    assert.match((await done(`keys resume ${key}`)).stdout, / ON\n$/);
    assert.match((await done('maintenance pause')).stdout, /\nPAUSED +20/);
    assert.match((await done('maintenance resume')).stdout, /\nON +20/);
    assert.match((await done('maintenance status')).stdout, /\nON +20/);
  });

  it('replaces root keys and the seal key, follows their jobs, and shows what was', async () => {
    await done('tenants create own --dedicated-root-key');
    await createKey('tenants/own/keys/k');
    for (const [args, total] of [
      ['hsm rotate-root own', 1],
      ['hsm rotate-root', undefined],
      ['hsm rotate-seal', undefined],
    ] as const) {
      const { stdout } = await done(`${args} --watch --output json`);
      const job = JSON.parse(stdout);
      assert.deepEqual([job.kind, job.state, job.left], ['KEY_VERSIONS', 'SUCCEEDED', 0], args);
      if (total !== undefined) assert.equal(job.total, total);
    }
    const own = JSON.parse((await done('hsm keys own --output json')).stdout);
    assert.deepEqual(
      own.map(({ role, state, keyVersions }: Record<string, unknown>) => [
        role,
        state,
        keyVersions,
      ]),
      [
        ['ROOT', 'CURRENT', 1],
        ['ROOT', 'RETIRED', 0],
      ],
    );
    assert.match((await done(`hsm key ${own[1].name}`)).stdout, /RETIRED/);
    assert.match(
      (await done('token status')).stdout,
      /nothing is under it any more: run keyward-server token destroy-key/,
    );
    await done('jobs create tenants/own --key-versions');
  });

  it('shreds a tenant: shows it first, does what was seen, calls it back', async () => {
    await done('tenants create leaving --dedicated-root-key');
    await createKey('tenants/leaving/keys/k');
    const { stdout } = await done('tenants shred leaving');
    assert.match(stdout, /token shred/);
    const [, confirmed = ''] = /keyward (tenants shred leaving --confirm \S+)/.exec(stdout) ?? [];
    assert.match((await done(`${confirmed} --window 7d`)).stdout, /SHRED_SCHEDULED/);
    assert.match((await keyward(`encrypt tenants/leaving/keys/k`, 'p')).stderr, /TENANT_DISABLED/);
    assert.match((await done('tenants restore leaving')).stdout, /leaving +DISABLED/);
  });

  it('lets a caller who is named in a profile do what a role binding allows, says what it lacks, and takes it away', async () => {
    const caller = 'spiffe://keyward.test/orders';
    writeProfiles({ cli: TESTER, orders: caller });
    assert.match((await done('profiles')).stdout, /\norders +127\.0\.0\.1:/);
    assert.match(
      (await done('whoami --profile orders')).stdout,
      /\nspiffe:\/\/keyward\.test\/orders +any +no +you may not list role bindings\n$/,
    );
    const key = 'tenants/bound/keys/orders-1';
    await client.createTenant({ tenantId: 'bound' });
    await createKey(key);
    const encrypt = `--profile orders encrypt ${key}`;
    assert.match((await keyward(encrypt, 'p')).stderr, /^keyward: RESOURCE_NOT_FOUND/);

    const bind = `access bind bound --principal ${caller} --id orders --role encrypter --keys orders-* --expires 1h`;
    const made = await done(
      `${bind} --context use=orders --context-one-of region=eu,us --description test`,
    );
    assert.match(
      made.stdout,
      /\ntenants\/bound\/roleBindings\/orders +spiffe\S+ +roles\/encrypter +orders-\* +this +use=orders region=one of eu,us +20\S+ +separated +test\n$/,
    );
    const context = '--context use=orders --context region=eu';
    await eventually(() => done(`${encrypt} ${context}`, 'p'));
    await done(`--profile orders access test ${key} data.encrypt random.generate ${context}`);
    const test = await keyward(
      `--profile orders access test ${key} data.encrypt data.decrypt ${context}`,
    );
    assert.deepEqual(
      [test.code, test.stderr],
      [1, `keyward: permissions missing on ${key}: data.decrypt\n`],
    );

    const { code, stderr } = await keyward(encrypt, 'p');
    assert.equal(code, 1);
    const [, question = ''] =
      /^keyward: PERMISSION_MISSING: .* "keyward (access explain .*) NAME"/.exec(stderr) ?? [];
    assert.equal(
      (await done(`${question} ${caller}`)).stdout,
      `${caller} does not have data.encrypt on ${key}.\n\n` +
        'tenants/bound/roleBindings/orders (roles/encrypter): it requires an encryption context, and none is given.\n',
    );
    assert.match(
      (await keyward(`--profile orders ${question} ${caller}`)).stderr,
      /access\.explain/,
    );
    assert.match(
      (await done(`${question} ${caller} ${context}`)).stdout,
      /^\S+ has data\.encrypt on .*, by \S+\.\n/,
    );

    await done('access unbind orders --tenant bound');
    await eventually(async () => {
      assert.match((await keyward(`${encrypt} ${context}`, 'p')).stderr, /RESOURCE_NOT_FOUND/);
    });
  });

  it('makes roles and gives them to groups, and says why one is not given or not deleted', async () => {
    await client.createTenant({ tenantId: 'roles' });
    const role = 'tenants/roles/roles/opener';
    await done(`access role create ${role} data.decrypt keys.get --description opens`);
    const { stdout: roles } = await done('access roles roles');
    assert.match(roles, /\nroles\/encrypter +Encrypts .* data\.encrypt, /);
    assert.match(roles, /\ntenants\/roles\/roles\/opener +opens +data\.decrypt, keys\.get\n$/);
    const chat = '["https://example.com/chat","id"]';
    await done(
      `access bind roles --group corp/support --id a --role ${role} --context-claim chat=${chat}`,
    );
    await done(
      'access bind roles --group corp/admins --id b --role keyAdmin --expires 2099-01-01T00:00:00Z',
    );
    const both = await keyward(`access bind roles --group corp/admins --role ${role}`);
    assert.deepEqual([both.code, both.stdout], [1, '']);
    assert.match(both.stderr, /^keyward: SEPARATION_OF_DUTIES: /);
    await done(
      `access bind roles --group corp/admins --id c --role ${role} --override-separation-of-duties`,
    );
    const { stdout: listed } = await done('access bindings roles --filter group=corp/admins');
    assert.match(listed, /^NAME[^\n]+\n\S+\/b .* 2099\S+ +separated\n\S+\/c .* NOT SEPARATED\n$/);
    assert.match(
      (await done('access get a --tenant roles')).stdout,
      / group corp\/support .* chat=claim \["https/,
    );

    const explain =
      'access explain k data.decrypt --tenant roles --principal jwt:corp/alice --group corp/support';
    await createKey('tenants/roles/keys/k');
    const other = await done(`${explain} --claim ${chat}=8 --context chat=7`);
    assert.match(
      other.stdout,
      /\n\S+\/a \(\S+\): the encryption context does not meet its conditions\.\n$/,
    );
    const own = await done(`${explain} --claim ${chat}=7 --context chat=7`);
    assert.match(own.stdout, /, by tenants\/roles\/roleBindings\/a\.\n/);

    assert.match((await keyward(`access role delete ${role}`)).stderr, /^keyward: ROLE_IN_USE: /);
    for (const id of ['a', 'c']) await done(`access unbind ${id} --tenant roles`);
    assert.match((await done(`access role get ${role}`)).stdout, /opener/);
    await done(`access role delete ${role}`);
    assert.match((await keyward(`access role get ${role}`)).stderr, /^keyward: RESOURCE_NOT_FOUND/);
  });

  it('says what the service refuses', async () => {
    const cases: [string, RegExp][] = [
      ['tenants create Bad_Name', /^keyward: INVALID_FIELD: Bad_Name: [^\n]+ \(request /],
      ['tenants get nobody', /^keyward: RESOURCE_NOT_FOUND: /],
      [
        'tenants create twice',
        /^keyward: RESOURCE_EXISTS: cannot create twice: it already exists; /,
      ],
      ['data-key tenants/twice/keys/k --length 17', /^keyward: INVALID_FIELD: --length: /],
    ];
    await client.createTenant({ tenantId: 'twice' });
    for (const [args, line] of cases) {
      const { code, stdout, stderr } = await keyward(args);
      assert.deepEqual([code, stdout], [1, ''], args);
      assert.match(stderr, line);
    }
  });
});
