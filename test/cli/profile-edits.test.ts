/** `keyward profiles add`, `use`, `show` and `remove`: the user's own profiles, and no others. */
import assert from 'node:assert/strict';
import { chmod, mkdir, readFile, rm, stat, symlink, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, it } from 'node:test';
import { useFakeService } from './fake.ts';

const fake = useFakeService();

/** Where nothing is but what a test puts there. */
let home: string;
/** The user's profiles. */
let file: string;

beforeEach(async () => {
  home = join(fake.folder, 'home');
  file = join(home, '.config', 'keyward', 'profiles.json');
  await mkdir(home);
});

afterEach(() => rm(home, { recursive: true }));

function keyward(args: string, env: Readonly<Record<string, string>> = {}) {
  return fake.keyward(args, { cwd: home, env });
}

async function content() {
  return JSON.parse(await readFile(file, 'utf8'));
}

/** The flags that reach the fake. */
function flags(): string {
  const files = join(fake.folder, '.keyward');
  return (
    `--address ${fake.service.address} --ca-file ${files}/ca.pem --cert-file ${files}/cert.pem ` +
    `--key-file ${files}/key.pem`
  );
}

describe('profiles add', () => {
  it('makes a file that the command then calls with, from another folder too', async () => {
    await chmod(join(fake.folder, '.keyward', 'key.pem'), 0o600);
    const added = await keyward(`profiles add work ${flags()} --tenant acme`);
    assert.deepEqual(
      [added.code, added.stdout],
      [0, `Added work to ${file}, and it is the default.\n`],
    );
    assert.equal((await stat(file)).mode & 0o777, 0o600);
    assert.equal((await keyward('whoami')).code, 0);
    assert.equal((await content()).profiles.work.tenant, 'acme');
  });

  it('keeps files by their full paths, and leaves the default to the first', async () => {
    await keyward('profiles add work --address a:1 --ca-file ca.pem');
    const second = await keyward('profiles add other --address b:1');
    assert.equal(second.stdout, `Added other to ${file}.\n`);
    assert.deepEqual(await content(), {
      default: 'work',
      profiles: {
        work: { address: 'a:1', caFile: join(home, 'ca.pem') },
        other: { address: 'b:1' },
      },
    });
    await keyward('profiles add third --address c:1 --use');
    assert.equal((await content()).default, 'third');
  });

  it('replaces a profile only with --force', async () => {
    await keyward('profiles add work --address a:1');
    const refused = await keyward('profiles add work --address b:1');
    assert.equal(refused.code, 2);
    assert.match(refused.stderr, /already has it; give --force to replace it/);
    assert.equal((await content()).profiles.work.address, 'a:1');
    assert.equal((await keyward('profiles add work --address b:1 --force')).code, 0);
    assert.equal((await content()).profiles.work.address, 'b:1');
  });

  it('refuses what could not be used, and leaves the file as it was', async () => {
    await keyward('profiles add work --address a:1');
    const before = await readFile(file, 'utf8');
    for (const [args, problem] of [
      ['__proto__ --address a:1', /a name has up to 64 letters/],
      ['other', /it would have nothing; give --address/],
      ['other --client-id x', /it has clientId, but no issuer/],
      ['other --issuer https://a --client-id x --token-file t', /both issuer and tokenFile/],
    ] as const) {
      const { code, stderr } = await keyward(`profiles add ${args}`);
      assert.equal(code, 2, args);
      assert.match(stderr, problem);
    }
    assert.equal(await readFile(file, 'utf8'), before);
  });

  it('writes to the file that KEYWARD_PROFILES names, through a link', async () => {
    const target = join(home, 'target.json');
    await writeFile(target, '{"profiles":{"kept":{"caFile":"relative.pem"}}}', { mode: 0o600 });
    await symlink(target, join(home, 'link.json'));
    const { stderr } = await keyward('profiles add work --address a:1', {
      KEYWARD_PROFILES: 'link.json',
    });
    assert.equal(stderr, '');
    const { profiles } = JSON.parse(await readFile(target, 'utf8'));
    assert.deepEqual(profiles, { kept: { caFile: 'relative.pem' }, work: { address: 'a:1' } });
    assert.ok((await stat(join(home, 'link.json'))).isFile());
  });
});

describe('profiles use, show and remove', () => {
  it('choose, show and remove a profile that is there', async () => {
    await keyward('profiles add work --address a:1 --tenant acme');
    await keyward('profiles add other --address b:1');
    assert.equal((await keyward('profiles use other')).code, 0);
    assert.match((await keyward('profiles list')).stdout, /\nother +yes +b:1\n/);
    const shown = (await keyward('profiles show')).stdout;
    assert.match(shown, /^SETTING +VALUE\nname +other\naddress +b:1\n$/);
    const named = JSON.parse((await keyward('profiles show work --output json')).stdout);
    assert.deepEqual(named, { name: 'work', file, address: 'a:1', tenant: 'acme' });
    const removed = await keyward('profiles remove other');
    assert.match(removed.stdout, /^Removed other from \S+\. No profile is the default now/);
    assert.deepEqual(await content(), {
      profiles: { work: { address: 'a:1', tenant: 'acme' } },
    });
  });

  it('refuse one that is not', async () => {
    await keyward('profiles add work --address a:1');
    for (const verb of ['use', 'remove', 'show']) {
      const { code, stderr } = await keyward(`profiles ${verb} other`);
      assert.deepEqual([code, /does not have it; it has work\n$/.test(stderr)], [2, true], verb);
    }
  });

  it('leave a folder’s profiles alone', async () => {
    const folders = join(home, '.keyward', 'profiles.json');
    await mkdir(join(home, '.keyward'));
    await writeFile(folders, '{"profiles":{"work":{"address":"a:1"}}}', { mode: 0o600 });
    for (const verb of ['use', 'remove'])
      assert.equal((await keyward(`profiles ${verb} work`)).code, 2, verb);
    assert.equal(await readFile(folders, 'utf8'), '{"profiles":{"work":{"address":"a:1"}}}');
  });
});
