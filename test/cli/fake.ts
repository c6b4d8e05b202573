/**
 * The `keyward` command with a profile, whose service is a fake that answers what a test says.
 *
 * Owns what the fake answers where a test says nothing, which is made anew before each. Knows no
 * test.
 */
import { mkdir, mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, beforeEach } from 'node:test';
import {
  type FakeService,
  type Handler,
  refusal,
  startFakeService,
  wireDataKey,
  wireJob,
  wireKey,
  wireRoleBinding,
  wireTokenKey,
  wireTokenStatus,
} from '../client/fake-service.ts';
import { runHere } from './here.ts';
import type { Outcome, RunOptions } from './run.ts';

export const KEY = 'tenants/acme/keys/orders';
export const VERSION = `${KEY}/versions/1`;
export const DATA_KEY = `${KEY}/dataKeys/db`;
export const JOB = 'tenants/acme/rewrapJobs/018f0000-0000-7000-8000-00000000000b';
export const TOKEN_KEY = 'tenants/system/tokenKeys/018f0000-0000-4000-8000-00000000000a';
export const BINDING = 'tenants/acme/roleBindings/orders';
export const ROLE = 'tenants/acme/roles/opener';
export const TENANT = {
  name: 'tenants/acme',
  uid: '018f0000-0000-4000-8000-000000000000',
  createTime: { seconds: 1_700_000_000, nanos: 0 },
  state: 'TENANT_STATE_ENABLED',
  etag: 't1',
};
/**
 * Every byte once, and after a head like a ciphertext's: whatever changes bytes on their way is
 * seen.
 */
export const CIPHERTEXT = Buffer.from([1, 1, 1, 0, ...Array.from({ length: 256 }, (_, i) => i)]);

/** How a version was used. */
export const USAGE = {
  encryptOperations: 4000,
  lastEncryptTime: { seconds: 1_700_000_100, nanos: 0 },
  decryptOperations: 17,
  lastDecryptTime: null,
  completeTime: { seconds: 1_700_000_200, nanos: 0 },
};

/** What a destruction takes with it. */
export const IMPACT = {
  keyVersions: 3,
  storedDataKeys: 120,
  usage: USAGE,
  destroyTime: { seconds: 1_702_592_000, nanos: 0 },
  etag: 'now',
  notice: 'Backups keep what was in them.',
};

/** What shredding a tenant takes with it. */
export const SHRED_IMPACT = {
  keys: 2,
  keyVersions: 3,
  storedDataKeys: 120,
  lastUseTime: { seconds: 1_700_000_100, nanos: 0 },
  shredTime: { seconds: 1_702_592_000, nanos: 0 },
  etag: 'now',
  rootKeys: ['tenants/acme/tokenKeys/b', 'tenants/acme/tokenKeys/a'],
  notice: 'The audit log keeps names.',
  checklist: ['Backups of the token.', 'Other tokens of the cluster.'],
};

/** A rotation to a version, by a job. */
export function wireRotation(version: number, rewrapJob: string) {
  return {
    fromVersion: `${KEY}/versions/${version - 1}`,
    toVersion: `${KEY}/versions/${version}`,
    rotateTime: { seconds: 1_700_000_000, nanos: 0 },
    cause: 'ROTATION_CAUSE_SCHEDULE',
    caller: 'keyward',
    duration: { seconds: 0, nanos: 41_700_000 },
    rewrapJob,
    rewrapState: 'REWRAP_JOB_STATE_RUNNING',
    rewrapped: 500,
    left: 499,
    failed: 1,
  };
}

/**
 * The set-up, to be used after its hooks have run: `handlers` and `seen` are empty of other tests.
 */
export interface FakeSetUp {
  service: FakeService;
  /** Of the profiles, which KEYWARD_PROFILES names; the command runs in `below/` of it. */
  folder: string;
  /** What each method answers. */
  handlers: Record<string, Handler>;
  /** What each method was asked last. */
  seen: Record<string, Record<string, unknown>>;
  /** Runs the command here with these words; with the profile, unless in another folder. */
  readonly keyward: (
    args: string | readonly string[],
    options?: Partial<RunOptions>,
  ) => Promise<Outcome>;
  /** Makes a method refuse. */
  readonly refuse: (method: string, facts: Parameters<typeof refusal>[0]) => void;
}

/** Registers the hooks; to be called once in a file. */
export function useFakeService(): FakeSetUp {
  const fake = {
    handlers: {},
    seen: {},
    keyward: (args, { cwd, env, ...options } = {}) =>
      runHere(typeof args === 'string' ? args.split(' ') : args, {
        cwd: cwd ?? join(fake.folder, 'below'),
        env: {
          ...(cwd === undefined && { KEYWARD_PROFILES: profilesFile(fake.folder) }),
          ...env,
        },
        ...options,
      }),
    refuse: (method, facts) => {
      fake.handlers[method] = () => {
        throw refusal(facts);
      };
    },
  } as FakeSetUp;
  const methods = new Proxy<Record<string, Handler>>(
    {},
    {
      get:
        (_, name: string) => (request: Record<string, unknown>, call: Parameters<Handler>[1]) => {
          fake.seen[name] = request;
          return fake.handlers[name]?.(request, call);
        },
    },
  );
  before(async () => {
    fake.service = await startFakeService(methods);
    fake.folder = await newFolder(fake.service);
  });
  after(async () => {
    await fake.service[Symbol.asyncDispose]();
    await rm(fake.folder, { recursive: true });
  });
  beforeEach(() => {
    fake.seen = {};
    fake.handlers = { ...administration(), ...dataPlane(), ...lifecycle(), ...hsm(), ...access() };
  });
  return fake;
}

/** Where the profiles are: not where the command would look for a folder's. */
export function profilesFile(folder: string): string {
  return join(folder, '.keyward', 'fake.json');
}

async function newFolder({ address, caPem, client }: FakeService): Promise<string> {
  const folder = await mkdtemp(join(tmpdir(), 'keyward-cli-'));
  await mkdir(join(folder, '.keyward'));
  await mkdir(join(folder, 'below'));
  await writeFile(join(folder, '.keyward', 'ca.pem'), caPem);
  await writeFile(join(folder, '.keyward', 'cert.pem'), client.certPem);
  await writeFile(join(folder, '.keyward', 'key.pem'), client.keyPem, { mode: 0o600 });
  const files = { caFile: 'ca.pem', certFile: 'cert.pem', keyFile: 'key.pem' };
  const profiles = { default: 'caller', profiles: { caller: { address, ...files } } };
  await writeFile(profilesFile(folder), JSON.stringify(profiles), { mode: 0o600 });
  return folder;
}

/** A service that is well, as the wire has it. */
export const WIRE_SERVICE_STATUS = {
  environmentUid: '018f0000-0000-4000-8000-000000000009',
  replica: 'kw-1/7',
  release: '0.2.0',
  problems: [] as string[],
  conditions: [{ name: 'hsm', holds: true, problem: '' }],
  replicas: [
    {
      ...{ uid: '018f0000-0000-4000-8000-00000000000a', name: 'kw-1/7', release: '0.2.0' },
      startTime: { seconds: 1_700_000_000, nanos: 0 },
      seenTime: { seconds: 1_700_000_100, nanos: 0 },
      ...{ running: true, agents: 2, agentsReady: 2, problems: [] as string[] },
    },
  ],
  token: {
    ...{ label: 'keyward', serialNumber: '0123', manufacturer: 'SoftHSM project' },
    ...{ model: 'SoftHSM v2', objects: 4, objections: [] as string[] },
  },
  database: { version: '18.4', migration: '0020_replica_reports' },
  maintenance: { dueRotations: 1 },
  auditLog: {
    ...{ generation: 1, treeSize: 12, checkpointTreeSize: 12 },
    checkpointTime: { seconds: 1_700_000_099, nanos: 0 },
    witnesses: [{ name: 'witness.example/w1' }],
  },
};

function administration(): Record<string, Handler> {
  return {
    CreateTenant: () => TENANT,
    GetTenant: () => TENANT,
    ListTenants: () => ({
      tenants: [TENANT, { ...TENANT, name: 'tenants/a', state: 'TENANT_STATE_DISABLED' }],
    }),
    UpdateTenant: () => TENANT,
    DisableTenant: () => TENANT,
    EnableTenant: () => TENANT,
    ShredTenant: () => ({
      tenant: {
        ...TENANT,
        state: 'TENANT_STATE_SHRED_SCHEDULED',
        shredTime: SHRED_IMPACT.shredTime,
      },
      impact: SHRED_IMPACT,
    }),
    RestoreTenant: () => ({ ...TENANT, state: 'TENANT_STATE_DISABLED' }),
    CreateKey: () => wireKey(KEY),
    GetKey: () => wireKey(KEY),
    ListKeys: () => ({ keys: [wireKey(KEY)] }),
    ListKeyVersions: () => ({ keyVersions: [wireKey(KEY).primary] }),
    RotateKey: () => wireKey(KEY, 2),
    UpdateKey: () => wireKey(KEY),
    DisableKey: () => ({ ...wireKey(KEY), state: 'KEY_STATE_DISABLED' }),
    EnableKey: () => wireKey(KEY),
    GetKeyVersion: () => wireKey(KEY).primary,
    DisableKeyVersion: () => wireKey(KEY).primary,
    EnableKeyVersion: () => wireKey(KEY).primary,
  };
}

function dataPlane(): Record<string, Handler> {
  const keyVersion = VERSION;
  return {
    ReEncrypt: () => ({ ciphertext: CIPHERTEXT, keyVersion, sourceKeyVersion: keyVersion }),
    GenerateRandomBytes: () => ({ data: Buffer.from([0, 255, 10, 13]) }),
    GenerateDataKeyWithoutPlaintext: () => ({ wrappedDataKey: CIPHERTEXT, keyVersion }),
    Encrypt: () => ({ ciphertext: CIPHERTEXT, keyVersion }),
    Decrypt: () => ({ plaintext: Buffer.from([0, 255, 10, 13]), keyVersion }),
    GenerateDataKey: () => ({
      plaintext: Buffer.alloc(32, 7),
      wrappedDataKey: CIPHERTEXT,
      keyVersion,
    }),
  };
}

function lifecycle(): Record<string, Handler> {
  const destroyTime = IMPACT.destroyTime;
  const key = { ...wireKey(KEY), state: 'KEY_STATE_DESTROY_SCHEDULED', destroyTime };
  const keyVersion = {
    ...wireKey(KEY).primary,
    state: 'KEY_VERSION_STATE_DESTROY_SCHEDULED',
    destroyTime,
  };
  const paused = {
    paused: true,
    changeTime: { seconds: 1_700_000_000, nanos: 0 },
    caller: 'spiffe://a',
  };
  return {
    ScheduleKeyDestruction: () => ({ key, impact: IMPACT }),
    RestoreKey: () => wireKey(KEY),
    ScheduleKeyVersionDestruction: () => ({ keyVersion, impact: IMPACT }),
    RestoreKeyVersion: () => wireKey(KEY).primary,
    CreateDataKey: ({ returnPlaintext }) => ({
      dataKey: wireDataKey(DATA_KEY),
      ...(returnPlaintext ? { plaintext: Buffer.alloc(32, 7) } : {}),
    }),
    GetDataKey: () => ({ dataKey: wireDataKey(DATA_KEY), plaintext: Buffer.alloc(32, 7) }),
    ListDataKeys: () => ({ dataKeys: [wireDataKey(DATA_KEY)] }),
    DeleteDataKey: () => ({}),
    ListRotations: () => ({ rotations: [wireRotation(3, `${JOB}-3`), wireRotation(2, JOB)] }),
    CreateRewrapJob: () => wireJob(JOB),
    GetRewrapJob: () => wireJob(JOB),
    ListRewrapJobs: () => ({ rewrapJobs: [wireJob(JOB)] }),
    CancelRewrapJob: () => wireJob(JOB, { state: 'REWRAP_JOB_STATE_CANCELLED' }),
    WatchRewrapJob: () => [wireJob(JOB), wireJob(JOB, ENDED)],
    GetMaintenance: () => ({}),
    GetServiceStatus: () => WIRE_SERVICE_STATUS,
    ListAlerts: () => ({ alerts: [] }),
    GetTokenStatus: wireTokenStatus,
    PauseMaintenance: () => paused,
    ResumeMaintenance: () => ({ ...paused, paused: false }),
  };
}

function hsm(): Record<string, Handler> {
  return {
    RotateRootKey: () => wireTokenKey(TOKEN_KEY),
    RotateSealKey: () => wireTokenKey(TOKEN_KEY, { role: 'TOKEN_OBJECT_ROLE_SEAL' }),
    GetTokenKey: () => wireTokenKey(TOKEN_KEY),
    ListTokenKeys: () => ({ tokenKeys: [wireTokenKey(TOKEN_KEY)] }),
  };
}

/** A tenant's role as the wire has it. */
export const WIRE_ROLE = {
  name: ROLE,
  permissions: ['data.decrypt', 'keys.get'],
  description: 'opens',
  createTime: { seconds: 1_700_000_000, nanos: 0 },
  creator: 'spiffe://acme/admin',
};

function access(): Record<string, Handler> {
  return {
    CreateRoleBinding: () => wireRoleBinding(BINDING),
    GetRoleBinding: () => wireRoleBinding(BINDING),
    ListRoleBindings: () => ({ roleBindings: [wireRoleBinding(BINDING)] }),
    DeleteRoleBinding: () => ({}),
    CreateRole: () => WIRE_ROLE,
    GetRole: () => WIRE_ROLE,
    ListRoles: () => ({
      roles: [
        { name: 'roles/decrypter', permissions: ['data.decrypt'], description: 'opens' },
        WIRE_ROLE,
      ],
    }),
    DeleteRole: () => ({}),
    TestPermissions: ({ permissions }) => ({ permissions }),
    ExplainAccess: () => ({}),
    GetCaller: () => ({ name: 'spiffe://acme/orders' }),
  };
}

/** What is different of a job that has ended well. */
export const ENDED = {
  state: 'REWRAP_JOB_STATE_SUCCEEDED',
  endTime: { seconds: 1_700_000_008, nanos: 0 },
  done: 1000,
  left: 0,
  timeLeft: null,
};
