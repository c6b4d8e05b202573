/**
 * Every RPC of keyward.v1, by its service: an operation, and its messages.
 *
 * What an operation needs and does is in `operations/`; what is the same for all of them
 * (authorization, deadline, record, log) in `calls/serve-call.ts`, so that none can forget it.
 */
import type { Rpc } from './rpc.ts';
import { accessService } from './rpcs/access.ts';
import { adminService } from './rpcs/admin.ts';
import { alertService } from './rpcs/alert.ts';
import { approvalService } from './rpcs/approval.ts';
import { auditService } from './rpcs/audit.ts';
import { canaryService } from './rpcs/canary.ts';
import { dataKeyService } from './rpcs/data-key.ts';
import { encryptionService } from './rpcs/encryption.ts';
import { hsmService } from './rpcs/hsm.ts';
import { keyService } from './rpcs/key.ts';
import { passkeyService } from './rpcs/passkey.ts';
import { rotationService } from './rpcs/rotation.ts';

/** All RPCs, by service. */
export const RPCS: Readonly<Record<string, Readonly<Record<string, Rpc>>>> = {
  'keyward.v1.AccessService': accessService,
  'keyward.v1.AdminService': adminService,
  'keyward.v1.AlertService': alertService,
  'keyward.v1.ApprovalService': approvalService,
  'keyward.v1.HsmService': hsmService,
  'keyward.v1.KeyService': keyService,
  'keyward.v1.EncryptionService': encryptionService,
  'keyward.v1.DataKeyService': dataKeyService,
  'keyward.v1.RotationService': rotationService,
  'keyward.v1.CanaryService': canaryService,
  'keyward.v1.PasskeyService': passkeyService,
  'keyward.v1.AuditService': auditService,
};

/** The paths of the methods that answer for as long as their callers listen. */
export const STREAM_PATHS: ReadonlySet<string> = new Set(
  Object.entries(RPCS).flatMap(([service, rpcs]) =>
    Object.entries(rpcs).flatMap(([name, { operation }]) =>
      'stream' in operation ? [`/${service}/${name}`] : [],
    ),
  ),
);

/** The full names of the methods of which it is an alert that they are denied. */
export const SENSITIVE_METHODS: ReadonlySet<string> = new Set(
  Object.entries(RPCS).flatMap(([service, rpcs]) =>
    Object.entries(rpcs).flatMap(([name, { operation }]) =>
      operation.isSensitive ? [`${service}/${name}`] : [],
    ),
  ),
);

/** The full name of every method, as `keyward.v1.KeyService/CreateKey`. */
export const METHOD_NAMES: ReadonlySet<string> = new Set(
  Object.entries(RPCS).flatMap(([service, rpcs]) =>
    Object.keys(rpcs).map((name) => `${service}/${name}`),
  ),
);
