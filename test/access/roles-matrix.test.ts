/**
 * Case 30: every method of the contract, asked for by callers who have one predefined role each.
 *
 * What a role may do is said here once more, method by method, and not taken from the service: a
 * method that is new, and of which nothing is said here, fails. Of the roles `npm test` draws some;
 * all are `test/long/roles-matrix.test.ts`'s.
 */
import assert from 'node:assert/strict';
import { after, before, describe, test } from 'node:test';
import { draw, drawHere, IS_WHOLE, randomBy, SEED } from '../support/random.ts';
import { type Names, wellFormed } from '../support/well-formed.ts';
import { AccessRig, type Caller, RPCS, type Rpc } from './access-rig.ts';
import type { Outcome } from './outcome.ts';

const ROLES = [
  'encrypter',
  'decrypter',
  'dataKeyIssuer',
  'keyViewer',
  'keyAdmin',
  'tenantAdmin',
  'securityAdmin',
  'approver',
  'auditor',
  'rootAdmin',
] as const;
type Role = (typeof ROLES)[number];

const SEES_KEYS: readonly Role[] = ['keyViewer', 'keyAdmin', 'auditor'];
const FINDS_KEYS: readonly Role[] = [...SEES_KEYS, 'securityAdmin', 'approver'];
const SEES_ACCESS: readonly Role[] = ['tenantAdmin', 'auditor', 'rootAdmin'];
const SAYS_WHO: readonly Role[] = ['tenantAdmin', 'rootAdmin'];
/** Those who may ask for what others have to approve, and those who look. */
const FOLLOWS: readonly Role[] = [...SEES_ACCESS, 'keyAdmin', 'securityAdmin', 'approver'];
const SEES_SYSTEM: readonly Role[] = ['auditor', 'rootAdmin'];

/**
 * Which roles allow a method. `*`: it needs none. `system`: no role that is given in a tenant
 * allows it.
 */
const SPECIFIED: Readonly<Record<string, '*' | readonly (Role | 'system')[]>> = {
  'EncryptionService/Encrypt': ['encrypter'],
  'EncryptionService/BatchEncrypt': ['encrypter'],
  'EncryptionService/Decrypt': ['decrypter'],
  'EncryptionService/BatchDecrypt': ['decrypter'],
  'EncryptionService/GenerateDataKey': ['dataKeyIssuer'],
  'EncryptionService/BatchGenerateDataKey': ['dataKeyIssuer'],
  'EncryptionService/GenerateDataKeyWithoutPlaintext': ['dataKeyIssuer'],
  // Takes two roles: the destination's encrypter, and the source's decrypter.
  'EncryptionService/ReEncrypt': [],
  'EncryptionService/BatchReEncrypt': [],
  'EncryptionService/GenerateRandomBytes': ['encrypter', 'dataKeyIssuer'],
  'DataKeyService/CreateDataKey': ['dataKeyIssuer'],
  'DataKeyService/GetDataKey': ['decrypter'],
  'DataKeyService/ListDataKeys': SEES_KEYS,
  'DataKeyService/DeleteDataKey': ['keyAdmin'],
  'KeyService/CreateKey': ['keyAdmin'],
  'KeyService/GetKey': FINDS_KEYS,
  'KeyService/ListKeys': FINDS_KEYS,
  'KeyService/GetKeyVersion': SEES_KEYS,
  'KeyService/ListKeyVersions': SEES_KEYS,
  'KeyService/UpdateKey': ['keyAdmin'],
  'KeyService/RotateKey': ['keyAdmin'],
  'KeyService/DisableKey': ['keyAdmin'],
  'KeyService/EnableKey': ['keyAdmin'],
  'KeyService/ScheduleKeyDestruction': ['keyAdmin'],
  'KeyService/RestoreKey': ['keyAdmin'],
  'KeyService/DisableKeyVersion': ['keyAdmin'],
  'KeyService/EnableKeyVersion': ['keyAdmin'],
  'KeyService/ScheduleKeyVersionDestruction': ['keyAdmin'],
  'KeyService/RestoreKeyVersion': ['keyAdmin'],
  'RotationService/ListRotations': SEES_KEYS,
  'RotationService/CreateRewrapJob': ['keyAdmin'],
  'RotationService/GetRewrapJob': SEES_KEYS,
  'RotationService/WatchRewrapJob': SEES_KEYS,
  'RotationService/ListRewrapJobs': SEES_KEYS,
  'RotationService/CancelRewrapJob': ['keyAdmin'],
  'AccessService/CreateRoleBinding': SAYS_WHO,
  'AccessService/GetRoleBinding': SEES_ACCESS,
  'AccessService/ListRoleBindings': SEES_ACCESS,
  'AccessService/DeleteRoleBinding': SAYS_WHO,
  'AccessService/CreateRole': SAYS_WHO,
  'AccessService/GetRole': SEES_ACCESS,
  'AccessService/ListRoles': SEES_ACCESS,
  'AccessService/DeleteRole': SAYS_WHO,
  'AccessService/ExplainAccess': SEES_ACCESS,
  'AccessService/TestPermissions': '*',
  'AccessService/GetCaller': '*',
  'ApprovalService/GetApprovalRules': SEES_ACCESS,
  'ApprovalService/UpdateApprovalRules': SAYS_WHO,
  'ApprovalService/GetPendingOperation': FOLLOWS,
  'ApprovalService/ListPendingOperations': FOLLOWS,
  'ApprovalService/WatchPendingOperations': FOLLOWS,
  'ApprovalService/ApproveOperation': ['approver'],
  'ApprovalService/RejectOperation': ['approver'],
  'ApprovalService/CancelOperation': FOLLOWS,
  'ApprovalService/BreakGlass': FOLLOWS,
  'PasskeyService/BeginPasskeyRegistration': '*',
  'PasskeyService/RegisterPasskey': ['approver', 'keyAdmin', 'tenantAdmin', 'rootAdmin'],
  'PasskeyService/GetPasskey': '*',
  // Of others; one's own needs none.
  'PasskeyService/ListPasskeys': ['system', ...SEES_SYSTEM],
  'PasskeyService/DeletePasskey': ['system', 'rootAdmin'],
  'CanaryService/CreateCanary': ['securityAdmin'],
  'CanaryService/GetCanary': ['securityAdmin'],
  'CanaryService/ListCanaries': ['securityAdmin'],
  'CanaryService/DeleteCanary': ['securityAdmin'],
  'CanaryService/CreateSuspension': ['securityAdmin'],
  'CanaryService/ListSuspensions': ['securityAdmin', 'auditor'],
  'CanaryService/DeleteSuspension': ['securityAdmin'],
  'AuditService/ListEntries': ['auditor'],
  'AuditService/ReadEntries': ['auditor'],
  'AuditService/GetCheckpoint': ['system', 'auditor'],
  'AuditService/AddCosignatures': ['system', 'rootAdmin'],
  'AuditService/GetInclusionProof': ['system', 'auditor'],
  'AuditService/GetConsistencyProof': ['system', 'auditor'],
  'AuditService/ReadTiles': ['system', 'auditor'],
  'AdminService/GetTenant': [...SEES_ACCESS, 'approver'],
  'AdminService/ListTenants': ['system', ...SEES_SYSTEM],
  'AdminService/CreateTenant': ['system', 'rootAdmin'],
  'AdminService/UpdateTenant': ['system', 'rootAdmin'],
  'AdminService/DisableTenant': ['system', 'rootAdmin'],
  'AdminService/EnableTenant': ['system', 'rootAdmin'],
  'AdminService/ShredTenant': ['system', 'rootAdmin'],
  'AdminService/RestoreTenant': ['system', 'rootAdmin'],
  'AdminService/GetMaintenance': ['system', ...SEES_SYSTEM],
  'AdminService/PauseMaintenance': ['system', 'rootAdmin'],
  'AdminService/ResumeMaintenance': ['system', 'rootAdmin'],
  'AdminService/GetServiceStatus': ['system', ...SEES_SYSTEM],
  'AdminService/GetTokenStatus': ['system', ...SEES_SYSTEM],
  'AlertService/ListAlerts': ['system', ...SEES_SYSTEM],
  'AlertService/TestAlert': ['system', 'rootAdmin'],
  'AlertService/SilenceAlert': ['system', 'rootAdmin'],
  'AlertService/ListAlertSilences': ['system', ...SEES_SYSTEM],
  'AlertService/DeleteAlertSilence': ['system', 'rootAdmin'],
  'HsmService/RotateRootKey': ['system', 'rootAdmin'],
  'HsmService/RotateSealKey': ['system', 'rootAdmin'],
  'HsmService/GetTokenKey': ['system', ...SEES_SYSTEM],
  'HsmService/ListTokenKeys': ['system', ...SEES_SYSTEM],
};
/** What they name isn't a tenant, but the service. */
const ABOUT_THE_SERVICE = [
  'AdminService/CreateTenant',
  'AdminService/ListTenants',
  'AdminService/GetMaintenance',
  'AdminService/PauseMaintenance',
  'AdminService/ResumeMaintenance',
  'AdminService/GetServiceStatus',
  'AdminService/GetTokenStatus',
  'AlertService/ListAlerts',
  'AlertService/TestAlert',
  'AlertService/SilenceAlert',
  'AlertService/ListAlertSilences',
  'AlertService/DeleteAlertSilence',
  'AuditService/GetCheckpoint',
  'AuditService/AddCosignatures',
  'AuditService/GetInclusionProof',
  'AuditService/GetConsistencyProof',
  'AuditService/ReadTiles',
  'HsmService/RotateSealKey',
  'PasskeyService/ListPasskeys',
  'PasskeyService/DeletePasskey',
];

/** What a call that is allowed does not end with. */
const NOT_ALLOWED = [
  'PERMISSION_MISSING',
  'INVALID_FIELD',
  'INTERNAL',
  'MALFORMED_REQUEST',
  'METHOD_UNKNOWN',
  'closed',
];

const random = randomBy(SEED);
/** Of the roles, wherever they are given. */
const SOME = 3;
let rig: AccessRig;
let nobody: Caller;

before(async () => {
  rig = await AccessRig.start();
  nobody = rig.certified('spiffe://keyward.test/nobody');
});

after(() => rig?.[Symbol.asyncDispose]());

/** Whether a role that was given there allows the method. */
function isAllowed({ name }: Rpc, role: Role, given: 'in the tenant' | 'for all tenants'): boolean {
  const roles = SPECIFIED[name];
  assert.ok(roles, `nothing is said here of who may call ${name}`);
  if (roles === '*') return true;
  return roles.includes(role) && (given === 'for all tenants' || !roles.includes('system'));
}

/** Of a batch of one, what became of its item. */
function reasonIn({ reason, answer }: Outcome): string {
  const [first] = (answer['results'] ?? []) as { error?: { message: string } | null }[];
  return / permission \S+ is missing /.test(first?.error?.message ?? '')
    ? 'PERMISSION_MISSING'
    : reason;
}

const FACES = {
  gRPC: (...asked: Parameters<AccessRig['askByGrpc']>) => rig.askByGrpc(...asked),
  JSON: (...asked: Parameters<AccessRig['askByHttp']>) => rig.askByHttp(...asked),
} as const;

/**
 * The faces by which a caller asks: either, each time; both in `test/long/roles-matrix.test.ts`.
 * That both refuse the same is `test/faces/http/parity.test.ts`'s.
 */
function faces(): readonly (keyof typeof FACES)[] {
  if (IS_WHOLE) return ['gRPC', 'JSON'];
  return [draw(['gRPC', 'JSON'] as const, random)];
}

/** Has the caller ask for everything, and compares what is refused with `expected`. */
async function compare(
  caller: Caller,
  names: Names,
  expected: (rpc: Rpc) => string,
): Promise<void> {
  const wrong: string[] = [];
  for (const rpc of RPCS) {
    const request = await wellFormed(rig, nobody, rpc, names);
    const wanted = expected(rpc);
    for (const face of faces()) {
      const actual = reasonIn(await FACES[face](caller, rpc.name, request));
      const isRight = wanted === 'allowed' ? !NOT_ALLOWED.includes(actual) : actual === wanted;
      if (!isRight) wrong.push(`${rpc.name} as ${face}: ${actual} instead of ${wanted}`);
    }
  }
  assert.deepEqual(wrong, [], `${wrong.join('\n')}\nby KEYWARD_TEST_SEED=${SEED}`);
}

test('case 30: of every method it is said who may call it, and of nothing else', () => {
  assert.deepEqual(Object.keys(SPECIFIED).sort(), RPCS.map(({ name }) => name).sort());
});

describe('case 30: whoever has a role in a tenant may do there what it allows, and nothing in another', () => {
  const ofTenants = ROLES.filter((each) => each !== 'rootAdmin');
  for (const role of drawHere(ofTenants, SOME)) {
    test(role, async () => {
      const name = `spiffe://keyward.test/${role}/of-acme`;
      await rig.bind('acme', name, role);
      const caller = rig.certified(name);
      await compare(caller, { tenant: 'acme' }, (rpc) =>
        isAllowed(rpc, role, 'in the tenant') ? 'allowed' : 'PERMISSION_MISSING',
      );
      await compare(caller, { tenant: 'beta' }, (rpc) => {
        if (SPECIFIED[rpc.name] === '*') return 'allowed';
        return ABOUT_THE_SERVICE.includes(rpc.name) ? 'PERMISSION_MISSING' : 'RESOURCE_NOT_FOUND';
      });
    });
  }
});

describe('case 30: whoever has a role for all tenants may do what it allows in every one, and for the service', () => {
  for (const role of drawHere(ROLES, SOME)) {
    test(role, async () => {
      const name = `spiffe://keyward.test/${role}/of-all`;
      await rig.bind('system', name, role, { allTenants: true });
      await compare(rig.certified(name), { tenant: 'beta' }, (rpc) =>
        isAllowed(rpc, role, 'for all tenants') ? 'allowed' : 'PERMISSION_MISSING',
      );
      await rig.done('AdminService/ResumeMaintenance', {});
    });
  }
});

describe('case 30: whoever has a role in tenants/system alone may do for the service what it allows, and nothing in tenants', () => {
  for (const role of drawHere(ROLES, SOME)) {
    test(role, async () => {
      const name = `spiffe://keyward.test/${role}/of-system`;
      await rig.bind('system', name, role);
      const caller = rig.certified(name);
      await compare(caller, { tenant: 'acme' }, (rpc) => {
        if (SPECIFIED[rpc.name] === '*') return 'allowed';
        if (!ABOUT_THE_SERVICE.includes(rpc.name)) return 'RESOURCE_NOT_FOUND';
        return isAllowed(rpc, role, 'for all tenants') ? 'allowed' : 'PERMISSION_MISSING';
      });
      const scope = { scope: 'tenants/-' };
      const { reason } = await rig.ask(caller, 'RotationService/CreateRewrapJob', scope);
      assert.equal(reason, role === 'keyAdmin' ? 'OK' : 'PERMISSION_MISSING');
      await rig.done('AdminService/ResumeMaintenance', {});
    });
  }
});
