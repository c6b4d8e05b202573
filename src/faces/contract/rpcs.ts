/**
 * Every RPC, as one row: what its request must be, which permission on what its caller needs, what
 * it does.
 *
 * A method of the contract without a row, or a row without a permission, is a type error. What is
 * the same for all (identity, authorization, deadline, logging, errors) is in `serve-call.ts`, so
 * that none can forget it. The rows themselves are in `methods/`, a file for each service; they
 * know messages and the keyring, no transport.
 */
import type { MethodRow, StreamRow } from '../../calls/operation.ts';
import { accessService } from '../../operations/access.ts';
import { adminService } from '../../operations/admin.ts';
import { auditService } from '../../operations/audit.ts';
import { dataKeyService } from '../../operations/data-key.ts';
import { encryptionService } from '../../operations/encryption.ts';
import { hsmService } from '../../operations/hsm.ts';
import { keyService } from '../../operations/key.ts';
import { rotationService } from '../../operations/rotation.ts';

/** All methods, by service. */
export const METHODS: Readonly<
  Record<string, Readonly<Record<string, MethodRow<unknown, object> | StreamRow<unknown, object>>>>
> = {
  'keyward.v1.AccessService': accessService,
  'keyward.v1.AdminService': adminService,
  'keyward.v1.HsmService': hsmService,
  'keyward.v1.KeyService': keyService,
  'keyward.v1.EncryptionService': encryptionService,
  'keyward.v1.DataKeyService': dataKeyService,
  'keyward.v1.RotationService': rotationService,
  'keyward.v1.AuditService': auditService,
};
