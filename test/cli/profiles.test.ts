import assert from 'node:assert/strict';
import {
  chmod,
  chown,
  copyFile,
  cp,
  mkdir,
  readFile,
  rm,
  symlink,
  writeFile,
} from 'node:fs/promises';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, it } from 'node:test';
import type { Handler } from '../client/fake-service.ts';
import { useFakeService } from './fake.ts';

const fake = useFakeService();

/** Where nothing is but what a test puts there. */
let home: string;
/** The user's profiles. */
let file: string;
/** The tokens that the service saw. */
let tokens: unknown[];

/** What the command prints there, with these variables. */
function keyward(args: string, env: Readonly<Record<string, string>> = {}) {
  return fake.keyward(args, { cwd: home, env });
}

/** `certs/` has the files of a caller. */
const CERTIFICATE = { certFile: 'certs/cert.pem', keyFile: 'certs/key.pem' };

/** The fake's address and authority. */
function reached() {
  return { address: fake.service.address, caFile: 'certs/ca.pem' };
}

async function write(content: unknown, to = file): Promise<void> {
  const text = typeof content === 'string' ? content : JSON.stringify(content);
  await writeFile(to, text, { mode: 0o600 });
}

beforeEach(async () => {
  home = join(fake.folder, 'home');
  const folder = join(home, '.config', 'keyward');
  file = join(folder, 'profiles.json');
  await mkdir(join(folder, 'certs'), { recursive: true });
  for (const name of ['ca.pem', 'cert.pem', 'key.pem']) {
    await copyFile(join(fake.folder, '.keyward', name), join(folder, 'certs', name));
    await chmod(join(folder, 'certs', name), name === 'key.pem' ? 0o600 : 0o644);
  }
  await writeFile(join(folder, 'token'), 'of.the.profile\n', { mode: 0o600 });
  tokens = [];
  fake.handlers['GetCaller'] = ((_, call) => {
    tokens.push(...call.metadata.get('authorization'));
    return { name: 'spiffe://acme/orders' };
  }) satisfies Handler;
});

afterEach(() => rm(home, { recursive: true }));

describe('a profile', () => {
  it('is the one that --profile names, else KEYWARD_PROFILE, else the default', async () => {
    const nowhere = { ...reached(), ...CERTIFICATE, address: '127.0.0.1:1' };
    await write({
      default: 'good',
      profiles: { good: { ...reached(), ...CERTIFICATE }, bad: nowhere },
    });
    const cases: [args: string, variable: string, code: number][] = [
      ['whoami', '', 0],
      ['whoami', 'bad', 3],
      ['whoami --profile bad', 'good', 3],
      ['whoami --profile good', 'bad', 0],
      ['--profile good whoami', 'absent', 0],
    ];
    for (const [args, variable, code] of cases) {
      const outcome = await keyward(args, { KEYWARD_PROFILE: variable });
      assert.equal(outcome.code, code, `${args} ${variable}: ${outcome.stderr}`);
    }
  });

  it('is of no use where there is no default and none is named', async () => {
    await write({ profiles: { good: { ...reached(), ...CERTIFICATE } } });
    assert.match((await keyward('whoami')).stderr, /no address is given/);
    assert.equal((await keyward('whoami --profile good')).code, 0);
  });

  it('is looked for where KEYWARD_PROFILES says, else in the configuration’s folder', async () => {
    const good = { default: 'good', profiles: { good: { ...reached(), ...CERTIFICATE } } };
    await write(good);
    const configuration = join(home, '.config');
    const moved = join(home, 'moved.json');
    const absolute = { ...good.profiles.good };
    for (const name of ['caFile', 'certFile', 'keyFile'] as const) {
      absolute[name] = join(configuration, 'keyward', absolute[name]);
    }
    await write({ profiles: { other: absolute } }, moved);
    const other = 'whoami --profile other';
    assert.match(
      (await keyward(other)).stderr,
      /the profile other: \S+profiles\.json does not have it; it has good\n/,
    );
    assert.equal((await keyward(other, { KEYWARD_PROFILES: 'moved.json' })).code, 0);
    assert.equal(
      (await keyward('whoami', { HOME: '/nowhere', XDG_CONFIG_HOME: configuration })).code,
      0,
    );

    await rm(file);
    const none = await keyward(other);
    assert.deepEqual(
      [none.code, none.stderr],
      [2, `keyward: cannot use the profile other: there is no ${file}\n`],
    );
    const absent = await keyward('whoami', { KEYWARD_PROFILES: 'absent.json' });
    assert.deepEqual(
      [absent.code, absent.stderr],
      [2, `keyward: cannot read ${join(home, 'absent.json')}: it does not exist\n`],
    );
  });

  it('gives way to flags and variables, one by one', async () => {
    await write({
      default: 'bad',
      profiles: {
        bad: { ...reached(), ...CERTIFICATE, address: '127.0.0.1:1', serverName: 'other' },
      },
    });
    const { address } = fake.service;
    assert.equal((await keyward('whoami', { KEYWARD_ADDRESS: address })).code, 3);
    const server = { KEYWARD_SERVER_NAME: '127.0.0.1' };
    assert.equal((await keyward('whoami', { ...server, KEYWARD_ADDRESS: address })).code, 0);
    assert.equal((await keyward(`whoami --address ${address}`, server)).code, 0);
    assert.equal(
      (await keyward(`whoami --address ${address} --server-name other`, server)).code,
      3,
    );
  });

  it('is left alone when flags and variables say everything, unless it is named', async () => {
    await write('no JSON');
    const certs = join(home, '.config', 'keyward', 'certs');
    const files = `--cert-file ${certs}/cert.pem --key-file ${certs}/key.pem --ca-file ${certs}/ca.pem`;
    const whole = `whoami --address ${fake.service.address} ${files}`;
    assert.equal((await keyward(whole)).code, 0);
    assert.match(
      (await keyward(`${whole} --profile good`)).stderr,
      /cannot read \S+profiles\.json/,
    );
  });

  it('brings its token, its certificate, or both; a given one alone', async () => {
    await write({
      profiles: {
        token: { ...reached(), tokenFile: 'token' },
        bound: { ...reached(), ...CERTIFICATE, tokenFile: 'token' },
        certificate: { ...reached(), ...CERTIFICATE },
      },
    });
    const given = join(home, 'token');
    await writeFile(given, 'that.was.given');
    const folder = join(home, '.config', 'keyward');
    const certificate = `--cert-file ${folder}/certs/cert.pem --key-file ${folder}/certs/key.pem`;
    // The fake wants a certificate, so that code 3 says that none was brought.
    const cases: [args: string, code: number, sent: string[]][] = [
      ['--profile bound', 0, ['Bearer of.the.profile']],
      ['--profile certificate', 0, []],
      ['--profile token', 3, []],
      [`--profile token ${certificate}`, 0, []],
      [`--profile bound ${certificate}`, 0, []],
      [`--profile certificate --token-file ${given}`, 3, []],
      [`--profile bound --token-file ${given} ${certificate}`, 0, ['Bearer that.was.given']],
    ];
    for (const [args, code, sent] of cases) {
      tokens = [];
      const outcome = await keyward(`whoami ${args} --timeout 2`);
      assert.deepEqual([outcome.code, tokens], [code, sent], args);
    }
    await writeFile(join(folder, 'token'), 'of.another.day', { mode: 0o600 });
    await keyward('whoami --profile bound');
    assert.deepEqual(tokens.at(-1), 'Bearer of.another.day');
  });
});

/** A folder with profiles, its CA, and its credentials, as `npm start` makes one. */
async function folderWithProfiles(
  name: string,
  settings: Readonly<Record<string, string>> = {},
): Promise<{ readonly folder: string; readonly profiles: string }> {
  const folder = join(home, name);
  const inside = join(folder, '.keyward');
  await mkdir(join(folder, 'below'), { recursive: true });
  await cp(join(home, '.config', 'keyward'), inside, { recursive: true });
  const profiles = join(inside, 'profiles.json');
  const profile = { ...reached(), ...CERTIFICATE, ...settings };
  await write({ default: 'folders', profiles: { folders: profile } }, profiles);
  return { folder, profiles };
}

describe('a folder’s profile', () => {
  /** Runs the command in a folder, as the user whose home this is. */
  const inFolder = (cwd: string, args: string, env: Readonly<Record<string, string>> = {}) =>
    fake.keyward(args, { cwd, env: { HOME: home, ...env } });

  it('is used in it and below, once the user has allowed it, and no longer once they deny it', async () => {
    const { folder, profiles } = await folderWithProfiles('clone');
    const below = join(folder, 'below');
    const refused = await inFolder(below, 'whoami');
    assert.deepEqual([refused.code, refused.stdout, tokens], [2, '', []]);
    assert.equal(
      refused.stderr,
      `keyward: cannot use ${profiles}: you have not allowed it; see what it has with "keyward ` +
        `profiles", then allow it with "keyward profiles allow ${folder}"\n`,
    );
    const listed = (await inFolder(below, 'profiles')).stdout;
    assert.match(listed, /^Profiles of \S+\nYou have not allowed them as they are: none is used\n/);
    assert.match(listed, /\nfolders +yes +127/);
    assert.equal(
      (await inFolder(below, 'profiles allow')).stdout,
      `Allowed ${profiles}:\n  folders: ${fake.service.address}\n`,
    );
    assert.equal((await inFolder(below, 'whoami')).code, 0);
    assert.equal((await inFolder(folder, 'whoami --profile folders')).code, 0);
    assert.equal(
      JSON.parse((await inFolder(folder, 'profiles --output json')).stdout).allowed,
      true,
    );
    const stranger = await inFolder(folder, 'whoami', { HOME: folder });
    assert.equal(stranger.code, 2, 'another user has allowed nothing');
    await inFolder(home, `profiles deny ${folder}`);
    assert.equal((await inFolder(below, 'whoami')).code, 2);
  });

  it('is the nearest one’s alone', async () => {
    const { folder } = await folderWithProfiles('clone');
    await inFolder(folder, 'profiles allow');
    const near = await folderWithProfiles('clone/below');
    const refused = await inFolder(near.folder, 'whoami');
    assert.equal(refused.code, 2);
    assert.ok(refused.stderr.includes(`cannot use ${near.profiles}: you have not allowed it`));
    assert.match(
      (await inFolder(join(folder, 'below'), 'profiles allow elsewhere')).stderr,
      /cannot allow profiles: there is no \S+elsewhere\/\.keyward\/profiles\.json/,
    );
  });

  it('is to be allowed again when it changes, or the CA that it names, or it is elsewhere', async () => {
    const { folder, profiles } = await folderWithProfiles('clone');
    const text = await readFile(profiles, 'utf8');
    const ca = join(folder, '.keyward', 'certs', 'ca.pem');
    const pem = await readFile(ca, 'utf8');
    await inFolder(folder, 'profiles allow');
    for (const [file, before] of [
      [profiles, text],
      [ca, pem],
    ] as const) {
      await writeFile(file, `${before}\n`);
      const { code, stderr } = await inFolder(folder, 'whoami');
      assert.equal(code, 2);
      assert.match(stderr, /it has changed since you allowed it/);
      await writeFile(file, before);
      assert.equal((await inFolder(folder, 'whoami')).code, 0);
    }
    await cp(folder, join(home, 'copy'), { recursive: true });
    assert.match((await inFolder(join(home, 'copy'), 'whoami')).stderr, /you have not allowed it/);
  });

  it('never gets a token or a certificate that flags or variables name', async () => {
    const { folder } = await folderWithProfiles('clone');
    await inFolder(folder, 'profiles allow');
    const own = join(home, '.config', 'keyward');
    const given = join(own, 'token');
    const certificate = {
      KEYWARD_CERT_FILE: join(own, 'certs', 'cert.pem'),
      KEYWARD_KEY_FILE: join(own, 'certs', 'key.pem'),
    };
    const where = { KEYWARD_ADDRESS: fake.service.address };
    const whose = { KEYWARD_CA_FILE: join(own, 'certs', 'ca.pem') };
    const cases: [args: string, env: Record<string, string>, code: number][] = [
      ['whoami', { KEYWARD_TOKEN_FILE: given }, 2],
      [`whoami --token-file ${given}`, {}, 2],
      ['whoami', certificate, 2],
      ['whoami', { ...certificate, ...where }, 2],
      ['whoami', { ...certificate, ...whose }, 2],
      ['whoami', { ...certificate, ...where, ...whose }, 0],
      [`whoami --address ${fake.service.address}`, {}, 0],
    ];
    for (const [args, env, code] of cases) {
      const outcome = await inFolder(folder, args, env);
      assert.equal(outcome.code, code, `${args} ${Object.keys(env)}: ${outcome.stderr}`);
      if (code === 2)
        assert.match(outcome.stderr, /folder's profile does not decide where other credentials/);
    }
    assert.deepEqual(tokens, []);
  });

  it('does not name credentials outside of its folder, by a path or by a link', async () => {
    const own = join(home, '.config', 'keyward');
    const { folder } = await folderWithProfiles('clone', {
      tokenFile: '../../.config/keyward/token',
    });
    const linked = await folderWithProfiles('linked', { keyFile: 'certs/linked.pem' });
    await symlink(
      join(own, 'certs', 'key.pem'),
      join(linked.folder, '.keyward', 'certs', 'linked.pem'),
    );
    for (const each of [folder, linked.folder]) {
      await inFolder(each, 'profiles allow');
      const { code, stderr } = await inFolder(each, 'whoami');
      assert.equal(code, 2);
      assert.match(stderr, /its (tokenFile|keyFile), \S+, is outside of that folder/);
    }
    assert.deepEqual(tokens, []);
  });
});

describe('a profiles file', () => {
  it('that is not as it must be is refused, with what is wrong of it', async () => {
    const cases: [content: unknown, refused: RegExp][] = [
      ['{', /cannot read \S+profiles\.json/],
      [[], /lacks profiles/],
      [{}, /lacks profiles/],
      [{ profiles: [] }, /lacks profiles/],
      [{ profiles: {}, defaults: 'a' }, /it has defaults, which is not known/],
      [{ profiles: {}, default: 7 }, /cannot use \S+: default must be the name/],
      [{ profiles: {}, default: 'a' }, /the profile a: \S+ does not have it; it has none/],
      [
        { default: 'toString', profiles: { a: {} } },
        /the profile toString: \S+ does not have it; it has a\n/,
      ],
      [{ default: 'a', profiles: { a: 'b' } }, /profile a in \S+: it must be an object/],
      [
        { default: 'a', profiles: { a: { adress: 'x:1' } } },
        /has adress, which is not known; known are address,/,
      ],
      [
        { default: 'a', profiles: { a: { address: 7 } } },
        /profile a in \S+: its address must be a string/,
      ],
      [
        { default: 'a', profiles: { a: { address: '' } } },
        /profile a in \S+: its address must be a string/,
      ],
      [
        { default: 'a', profiles: { a: { address: 'x:1' } } },
        /the profile a lacks caFile; add it, or give --ca-file/,
      ],
      [{ default: 'a', profiles: { a: reached() } }, /the profile a lacks certFile/],
      [
        { default: 'a', profiles: { a: { ...reached(), certFile: 'certs/cert.pem' } } },
        /the profile a lacks keyFile/,
      ],
    ];
    for (const [content, refused] of cases) {
      await write(content);
      const { code, stdout, stderr } = await keyward('whoami');
      assert.deepEqual([code, stdout], [2, ''], JSON.stringify(content));
      assert.match(stderr, refused);
      assert.match(stderr, /^keyward: [^\n]+\n$/);
    }
    assert.deepEqual(fake.seen, {});
  });

  it('that others can change is not used, nor what it names', async () => {
    await write({
      default: 'a',
      profiles: { a: { ...reached(), ...CERTIFICATE, tokenFile: 'token' } },
    });
    const folder = join(home, '.config', 'keyward');
    const cases: [name: string, modes: number[], refused: RegExp, good: number][] = [
      ['profiles.json', [0o620, 0o602], /others can change it; chmod go-w it/, 0o644],
      ['certs/ca.pem', [0o664, 0o646], /others can change it/, 0o644],
      ['certs/cert.pem', [0o664, 0o646], /others can change it/, 0o644],
      ['certs/key.pem', [0o620, 0o602], /others can change it/, 0o600],
      ['certs/key.pem', [0o640, 0o604], /others can read it; chmod 600 it/, 0o400],
      ['token', [0o640, 0o604], /others can read it; chmod 600 it/, 0o400],
    ];
    for (const [name, modes, refused, good] of cases) {
      for (const mode of modes) {
        await chmod(join(folder, name), mode);
        const { code, stderr } = await keyward('whoami');
        assert.equal(code, 2, `${name} ${mode.toString(8)}`);
        assert.match(stderr, refused);
        assert.ok(stderr.includes(join(folder, name)), stderr);
      }
      await chmod(join(folder, name), good);
      assert.equal((await keyward('whoami')).code, 0, name);
    }
    await chmod(join(folder, 'token'), 0o644);
    const certificate = `--cert-file ${folder}/certs/cert.pem --key-file ${folder}/certs/key.pem`;
    assert.equal(
      (await keyward(`whoami ${certificate}`)).code,
      0,
      'it is not looked at where it is not used',
    );
  });

  it('that belongs to another user is not used, nor what it names', async (t) => {
    if (process.getuid?.() !== 0) return t.skip('only root can make a file of another user');
    await write({ default: 'a', profiles: { a: { ...reached(), ...CERTIFICATE } } });
    const folder = join(home, '.config', 'keyward');
    for (const name of ['profiles.json', 'certs/ca.pem', 'certs/key.pem']) {
      await chown(join(folder, name), 12_345, 12_345);
      const { code, stderr } = await keyward('whoami');
      assert.deepEqual([code, /belongs to another user/.test(stderr)], [2, true], name);
      await chown(join(folder, name), 0, 0);
    }
  });
});

describe('profiles', () => {
  it('are listed, with the one that is used, and nothing of what is in the files', async () => {
    await write({
      default: 'batch',
      profiles: {
        work: { ...reached(), tokenFile: 'token' },
        batch: { ...reached(), ...CERTIFICATE, serverName: 'keyward' },
        'half\u001b': {},
      },
    });
    const folder = join(home, '.config', 'keyward');
    const { code, stdout, stderr } = await keyward('profiles');
    assert.deepEqual([code, stderr], [0, '']);
    const [head, empty, columns, work, batch, half, ...rest] = stdout.split('\n');
    assert.deepEqual([head, empty, rest], [`Profiles of ${file}`, '', ['']]);
    assert.match(columns ?? '', /^NAME +USED +ADDRESS +CA +CERTIFICATE +TOKEN +ISSUER$/);
    assert.match(
      work ?? '',
      new RegExp(`^work +127\\.0\\.0\\.1:\\d+ +${folder}/certs/ca.pem +${folder}/token$`),
    );
    assert.match(
      batch ?? '',
      new RegExp(`^batch +yes +127\\S+ +\\S+ca.pem +${folder}/certs/cert.pem$`),
    );
    assert.equal(half, 'half?');
    const token = (await readFile(join(folder, 'token'), 'utf8')).trim();
    assert.ok(!stdout.includes(token));
    assert.match((await keyward('profiles --profile work')).stdout, /\nwork +yes +127/);
    assert.match(
      (await keyward('profiles', { KEYWARD_PROFILE: 'work' })).stdout,
      /\nwork +yes +127/,
    );
    assert.match(
      (await keyward('profiles --profile other')).stderr,
      /the profile other: \S+ does not have it; it has work, batch/,
    );

    const json = JSON.parse((await keyward('profiles --output json')).stdout);
    assert.deepEqual([json.file, json.allowed, json.overriddenBy], [file, true, []]);
    assert.deepEqual(json.profiles[1], {
      name: 'batch',
      used: true,
      address: fake.service.address,
      caFile: join(folder, 'certs/ca.pem'),
      certFile: join(folder, 'certs/cert.pem'),
      keyFile: join(folder, 'certs/key.pem'),
      serverName: 'keyward',
    });
    assert.deepEqual(fake.seen, {});
  });

  it('say what is used instead of them', async () => {
    await write({ default: 'work', profiles: { work: { ...reached(), tokenFile: 'token' } } });
    const { stdout } = await keyward('profiles --ca-file ca.pem', { KEYWARD_ADDRESS: 'other:1' });
    assert.match(
      stdout,
      /\nUsed instead of a profile's settings: KEYWARD_ADDRESS, --ca-file\n\nNAME/,
    );
    assert.match(stdout, /\nwork +yes /);
    const whole = await keyward('profiles --ca-file ca.pem --token-file token --address other:1');
    assert.match(whole.stdout, /\nwork +127/);
  });

  it('that are not there are missed', async () => {
    const { code, stderr } = await keyward('profiles');
    const why = `there is no ${file}; make one with "keyward profiles add"`;
    assert.deepEqual([code, stderr], [2, `keyward: cannot list profiles: ${why}\n`]);
  });
});
