/**
 * Passkeys: an operation for each method of PasskeyService.
 *
 * - A caller may always see their own; others', with `passkeys.list` on `tenants/system`.
 */
import type { NewPasskey } from '../approvals/passkeys.ts';
import type { Call } from '../call.ts';
import {
  ANY_CALLER,
  type AuthorizedCall,
  ofParent,
  ofSystem,
  operation,
  type Services,
} from '../calls/operation.ts';
import { KeywardError } from '../errors.ts';
import type { PasskeyRecord } from '../hsm/approval-records.ts';
import type { ListRequest } from '../keyring/pages.ts';
import { formatPasskeyName, SYSTEM_TENANT, type TenantName } from '../names.ts';
import type { Repeatable } from './requests.ts';

const ALL = '-';
const COLLECTION = 'passkeys';

/** A passkey that is named. */
export interface NamedPasskey {
  readonly credentialId: Buffer;
}

/** A passkey to be registered, and the tenant that the caller has the permission on. */
export interface PasskeyToRegister extends NewPasskey, Repeatable {
  readonly parent: TenantName;
}

/** Which passkeys are to be listed. */
export interface PasskeysToList extends Omit<ListRequest, 'conditions'> {
  /** Whose: empty for the caller's own, `-` for everyone's. */
  readonly principal: string;
}

/** Whether the caller may see others' passkeys. Throws what reading rights throws. */
async function maySeeOthers({ access }: Services, { rights }: AuthorizedCall): Promise<boolean> {
  const inSystem = await access.rightsOf(rights.caller, SYSTEM_TENANT);
  return inSystem.allows('passkeys.list', {}, COLLECTION);
}

/** Whose passkeys are listed: undefined for everyone's. Throws PERMISSION_MISSING. */
async function ownerOf(
  services: Services,
  call: AuthorizedCall,
  principal: string,
): Promise<string | undefined> {
  const { caller } = call.rights;
  if (principal === '' || principal === caller.name) return caller.name;
  const inSystem = await services.access.rightsOf(caller, SYSTEM_TENANT);
  inSystem.require('passkeys.list', {}, COLLECTION);
  return principal === ALL ? undefined : principal;
}

async function register(
  { access, passkeys }: Services,
  call: Call,
  { parent, requestId: _, ...wanted }: PasskeyToRegister,
): Promise<PasskeyRecord> {
  const { tenantId } = await access.tenantOf(parent.tenant);
  return passkeys.register(call, tenantId, wanted);
}

export const passkeyOperations = {
  BeginPasskeyRegistration: operation({
    permission: ANY_CALLER,
    target: ofSystem,
    resource: (_: object) => COLLECTION,
    handle: async ({ passkeys, signOffUrl }, call) => ({
      ...(await passkeys.begin(call)),
      signOffUrl: signOffUrl(),
    }),
  }),
  RegisterPasskey: operation({
    isSensitive: true,
    agentNeed: () => 'passkeys',
    permission: 'passkeys.create',
    target: ofParent,
    resource: (request: PasskeyToRegister) => formatPasskeyName(request),
    handle: (services, call, request) => register(services, call, request),
    preview: (services, call, request) =>
      register(services, call, { ...request, validateOnly: true }),
    // By a passkey that the caller has; a first one others may have to approve.
    isVouchedFor: ({ assertion }) => assertion !== undefined,
  }),
  GetPasskey: operation({
    permission: ANY_CALLER,
    target: ofSystem,
    resource: (request: NamedPasskey) => formatPasskeyName(request),
    handle: async (services, call, { credentialId }) => {
      const passkey = await services.passkeys.get(call, credentialId);
      if (passkey.principal !== call.caller && !(await maySeeOthers(services, call)))
        throw new KeywardError('RESOURCE_NOT_FOUND');
      return passkey;
    },
  }),
  ListPasskeys: operation({
    permission: ANY_CALLER,
    target: ofSystem,
    resource: (_: PasskeysToList) => COLLECTION,
    handle: async (services, call, { principal, ...page }) =>
      services.passkeys.list(call, await ownerOf(services, call, principal), page),
  }),
  DeletePasskey: operation({
    isSensitive: true,
    agentNeed: () => 'removals',
    permission: 'passkeys.delete',
    target: ofSystem,
    resource: (request: NamedPasskey & Repeatable) => formatPasskeyName(request),
    handle: ({ passkeys }, call, { credentialId }) => passkeys.remove(call, credentialId),
  }),
};
