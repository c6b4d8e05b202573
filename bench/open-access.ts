/**
 * Identity and access that ask nobody and allow everything: what takes the place of the service's
 * own in the floor that access is measured against (`without-access.ts`).
 *
 * Has the same faces as `src/access/access.ts` and `src/access/identity.ts`, and nothing behind
 * them: no certificate is looked at but by TLS, no token, no policy. For measuring alone.
 */
import type {
  AccessParts,
  Access as RealAccess,
  Rights as RealRights,
} from '../src/access/access.ts';
import type { ClientCertificate } from '../src/access/certificates.ts';
import type { Caller, Identity as RealIdentity } from '../src/access/identity.ts';

type Face<Class> = Pick<Class, keyof Class>;

const ANYBODY: Caller = { name: 'anybody', groups: [], claim: () => undefined };
const CERTIFICATE: ClientCertificate = {
  name: ANYBODY.name,
  thumbprint: '',
  denyKeys: [],
  validity: { from: 0, until: Infinity },
};

/** In place of the class of that name. */
export class Identity implements Face<RealIdentity> {
  readonly acceptsTokens = false;
  readonly keyFetches = [];
  certificate = () => CERTIFICATE;
  limitsTenants = () => undefined;
  callerOf = () => ANYBODY;
  knownCallerOf = () => ANYBODY;
  reload() {}
  stop() {}
}

/** In place of the class of that name. */
export class Rights implements Face<RealRights> {
  readonly caller: Caller;
  readonly tenant: string;
  readonly tenantId = undefined;
  readonly denials = [];
  readonly bindings = new Map();

  constructor(caller: Caller, { name }: { readonly name: string }) {
    this.caller = caller;
    this.tenant = name;
  }

  require() {}
  allows = () => true;
  bindingFor = () => 'none';
  checkProofs() {}
  apart = () => this as unknown as RealRights;
}

/** In place of the class of that name. */
export class Access implements Face<RealAccess> {
  readonly tenantOf: AccessParts['tenantOf'];

  constructor({ tenantOf }: AccessParts) {
    this.tenantOf = tenantOf;
  }

  rightsOf = async (caller: Caller, tenant: string) =>
    new Rights(caller, { name: tenant }) as unknown as RealRights;
  recordRefusal = () => Promise.reject(new Error('nothing is refused here'));
  isFirstAdministrator = () => false;
  allowsByConfiguration = () => false;
}

/** In place of what has that name. */
export const bindingName = () => 'none';
export const BY_CONFIGURATION = 'none';
