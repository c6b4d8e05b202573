import assert from 'node:assert/strict';
import { createDecipheriv } from 'node:crypto';
import { mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { after, before, describe, it } from 'node:test';
import { type Environment, newEnvironment, type Service, startService } from '../kit.ts';
import { type Outcome, run } from './run.ts';

const KEY = 'tenants/acme/keys/orders';

describe('the keyward command against the service', () => {
  let environment: Environment;
  let service: Service;
  let folder: string;

  async function keyward(args: string, input: string | Uint8Array = ''): Promise<Outcome> {
    return run(args.split(' '), { cwd: folder, input });
  }

  /** Runs what must succeed. */
  async function done(args: string, input: string | Uint8Array = ''): Promise<Outcome> {
    const outcome = await keyward(args, input);
    assert.deepEqual([outcome.code, outcome.stderr], [0, ''], args);
    return outcome;
  }

  before(async () => {
    environment = await newEnvironment();
    service = await startService(environment);
    folder = join(environment.directory, 'cli');
    mkdirSync(join(folder, '.keyward'), { recursive: true });
    const { certPem, keyPem } = environment.ca.issue({ subject: 'cli', usage: 'client' });
    const files = { caFile: environment.ca.certPem, certFile: certPem, keyFile: keyPem };
    for (const [name, pem] of Object.entries(files)) writeFileSync(join(folder, '.keyward', name), pem);
    const identity = { address: `127.0.0.1:${service.port}`, caFile: 'caFile', certFile: 'certFile' };
    writeFileSync(
      join(folder, '.keyward', 'client.json'),
      JSON.stringify({ ...identity, keyFile: 'keyFile' }),
    );
  });

  after(async () => {
    await service?.[Symbol.asyncDispose]();
    await environment?.[Symbol.asyncDispose]();
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
    assert.match((await done('keys get --tenant acme orders')).stdout, /tenants\/acme\/keys\/orders/);
    assert.match((await done('tenants get acme')).stdout, /tenants\/acme/);
  });

  it('carries the smallest and the largest plaintext', async () => {
    await done('tenants create sizes');
    await done('keys create tenants/sizes/keys/k');
    for (const size of [0, 65_536]) {
      const plaintext = Buffer.alloc(size, 0xa5);
      const { stdout } = await done('encrypt tenants/sizes/keys/k', plaintext);
      const { bytes } = await done('decrypt --tenant sizes', stdout);
      assert.ok(bytes.equals(plaintext));
    }
  });

  it('issues a data key that opens again', async () => {
    await done('tenants create data');
    await done('keys create tenants/data/keys/k');
    await done('data-key tenants/data/keys/k --plaintext-out key --wrapped-out wrapped --context a=b');
    const { bytes } = await done('decrypt --tenant data --in wrapped --context a=b');
    assert.deepEqual(bytes, readFileSync(join(folder, 'key')));
    assert.doesNotThrow(() =>
      createDecipheriv('aes-256-gcm', bytes, Buffer.alloc(12), { authTagLength: 16 }),
    );
  });

  it('says what the service refuses', async () => {
    const cases: [string, RegExp][] = [
      ['tenants create Bad_Name', /^keyward: INVALID_FIELD: tenant_id: [^\n]+ \(request /],
      ['tenants get nobody', /^keyward: RESOURCE_NOT_FOUND: /],
      ['tenants create twice', /^keyward: RESOURCE_EXISTS: /],
      ['data-key tenants/twice/keys/k --length 17', /^keyward: INVALID_FIELD: length: /],
    ];
    await done('tenants create twice');
    for (const [args, line] of cases) {
      const { code, stdout, stderr } = await keyward(args);
      assert.deepEqual([code, stdout], [1, ''], args);
      assert.match(stderr, line);
    }
  });
});
