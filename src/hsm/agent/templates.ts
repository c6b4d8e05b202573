/**
 * Every template with which the agent creates or unwraps an object, and what each token object must
 * be.
 *
 * The templates are constants, varied only by the token's profile and never by a request: a single
 * attribute chosen by somebody else (SENSITIVE off, DECRYPT beside WRAP) gives keys away. Knows
 * attributes, not sessions.
 */
import {
  type ITemplate,
  KeyType,
  MechanismEnum,
  ObjectClass,
  registerAttribute,
} from 'graphene-pk11';
import { MATERIAL_BYTES } from '../key-version.ts';
import type { TokenObjectRole, TokenProfile } from '../token-profile.ts';

// graphene types this attribute but has no row for it.
registerAttribute('copyable', 0x171, 'boolean');

/** CKK_SHA512_HMAC, which graphene has no name for. */
export const SHA512_HMAC_KEY = 0x43;
export const HMAC_SHA512 = MechanismEnum.SHA512_HMAC;
/** OID 1.2.840.10045.3.1.7 (P-256) in DER. */
const P256 = Buffer.from('06082a8648ce3d030107', 'hex');

/** CKA_APPLICATION of data objects. */
const APPLICATION = 'keyward';

/** Attributes that some tokens know no way to set; a token that lacks one needs a waiver. */
export const optionalAttributes: readonly string[] = ['copyable', 'modifiable'];
/**
 * What the token itself says of a key's past: true of every key that it has generated as a
 * sensitive one.
 */
export const historyAttributes: readonly string[] = [
  'local',
  'alwaysSensitive',
  'neverExtractable',
];

/** Nothing but what a template grants on top of it. */
const NO_USAGE = {
  encrypt: false,
  decrypt: false,
  sign: false,
  verify: false,
  wrap: false,
  unwrap: false,
  derive: false,
} as const satisfies ITemplate;

/** What a token object is beyond its kind. */
const GUARDED = {
  private: true,
  sensitive: true,
  extractable: false,
} as const satisfies ITemplate;

/**
 * A private EC key has fewer usages than a secret key, and tokens refuse to hear of those it
 * hasn't.
 */
const PRIVATE_KEY_USAGE = {
  decrypt: false,
  sign: true,
  unwrap: false,
  derive: false,
} as const satisfies ITemplate;

const USAGE: Readonly<Record<TokenObjectRole, ITemplate>> = {
  root: { ...NO_USAGE, wrap: true, unwrap: true },
  seal: { ...NO_USAGE, sign: true },
  mask: { ...NO_USAGE, sign: true },
  'audit-signing': PRIVATE_KEY_USAGE,
};

/** RSA-3072, exponent 65537. */
export const TRANSPORT_MODULUS_BYTES = 384;
const TRANSPORT_EXPONENT = Buffer.from([1, 0, 1]);
const PUBLIC_TRANSPORT_USAGE = {
  encrypt: false,
  verify: false,
  wrap: true,
} as const satisfies ITemplate;

const KIND = {
  root: { keyType: KeyType.AES, valueLen: 32 },
  seal: { keyType: KeyType.GENERIC_SECRET, valueLen: MATERIAL_BYTES },
  mask: { keyType: KeyType.GENERIC_SECRET, valueLen: MATERIAL_BYTES },
  'audit-signing': { keyType: KeyType.EC },
} as const satisfies Readonly<Record<TokenObjectRole, ITemplate>>;

/** What must be true of a token object once it exists, by attribute. */
export function requiredAttributes(
  role: TokenObjectRole,
): readonly (readonly [string, boolean | number])[] {
  return Object.entries({
    ...KIND[role],
    ...GUARDED,
    ...USAGE[role],
    modifiable: false,
    copyable: false,
    ...Object.fromEntries(historyAttributes.map((attribute) => [attribute, true])),
  });
}

/** How an object is found: class, token object, CKA_ID. */
export function searchTemplate(role: TokenObjectRole, id?: Buffer): ITemplate {
  return { class: classOf(role), token: true, ...(id ? { id } : {}) };
}

/** For generating a token object of a role; for `audit-signing`, its private half. */
export function tokenObjectTemplate(
  role: TokenObjectRole,
  id: Buffer,
  label: string,
  profile: Pick<TokenProfile, 'keyType' | 'unsupported'>,
  token = true,
): ITemplate {
  return withoutUnsupported(profile.unsupported, {
    class: classOf(role),
    ...KIND[role],
    token,
    id,
    label,
    ...GUARDED,
    ...USAGE[role],
    copyable: false,
    modifiable: false,
  });
}

/** How the checkpoints are found that the token keeps. */
export function keptCheckpointSearch(label: string): ITemplate {
  return { class: ObjectClass.DATA, token: true, application: APPLICATION, label };
}

/** A checkpoint that the token keeps: a data object, which has no id. */
export function keptCheckpointTemplate(
  label: string,
  note: Buffer,
  { unsupported }: Pick<TokenProfile, 'unsupported'>,
): ITemplate {
  return withoutUnsupported(unsupported, {
    ...keptCheckpointSearch(label),
    private: true,
    value: note,
    modifiable: false,
  });
}

/** The public half of the audit signing key. */
export function auditPublicTemplate(id: Buffer, label: string): ITemplate {
  return {
    class: ObjectClass.PUBLIC_KEY,
    keyType: KeyType.EC,
    paramsEC: P256,
    token: true,
    id,
    label,
    verify: true,
  };
}

/**
 * TRANSFER: material on its way into a wrapping. It can be wrapped and nothing else, and lives
 * within one operation.
 */
export function transferTemplate(): ITemplate {
  return {
    class: ObjectClass.SECRET_KEY,
    keyType: KeyType.GENERIC_SECRET,
    valueLen: MATERIAL_BYTES,
    token: false,
    private: true,
    sensitive: true,
    extractable: true,
    ...NO_USAGE,
  };
}

/** TRANSFER, for material that comes out of one wrapping to go into another. */
export function transferUnwrapTemplate({
  valueLength,
}: Pick<TokenProfile, 'valueLength'>): ITemplate {
  const template = transferTemplate();
  if (!valueLength) delete template.valueLen;
  return template;
}

/** USE: material as it is used. It computes HMACs and can't leave the token in any form. */
export function useTemplate(profile: Omit<TokenProfile, 'wrap' | 'wrapMechanism'>): ITemplate {
  const modifiable = { modifiable: false };
  return withoutUnsupported(profile.unsupported, {
    ...(profile.modifiable === 'first' ? modifiable : {}),
    class: ObjectClass.SECRET_KEY,
    keyType: profile.keyType,
    ...(profile.valueLength ? { valueLen: MATERIAL_BYTES } : {}),
    token: false,
    ...GUARDED,
    ...NO_USAGE,
    sign: true,
    copyable: false,
    ...(profile.allowedMechanisms ? { allowedMechanisms: mechanismList(HMAC_SHA512) } : {}),
    ...(profile.modifiable === 'last' ? modifiable : {}),
  });
}

/**
 * TRANSPORT, for generating a pair: its public half wraps, its private half unwraps and never
 * leaves the token.
 */
export function transportPairTemplates(): {
  readonly public: ITemplate;
  readonly private: ITemplate;
} {
  const half = { keyType: KeyType.RSA, token: false } as const;
  return {
    public: {
      ...half,
      class: ObjectClass.PUBLIC_KEY,
      modulusBits: TRANSPORT_MODULUS_BYTES * 8,
      publicExponent: TRANSPORT_EXPONENT,
      ...PUBLIC_TRANSPORT_USAGE,
    },
    private: {
      ...half,
      class: ObjectClass.PRIVATE_KEY,
      ...GUARDED,
      decrypt: false,
      sign: false,
      unwrap: true,
      derive: false,
    },
  };
}

/** TRANSPORT, its public half as another token is given it. */
export function transportPublicTemplate(modulus: Buffer): ITemplate {
  return {
    class: ObjectClass.PUBLIC_KEY,
    keyType: KeyType.RSA,
    token: false,
    modulus,
    publicExponent: TRANSPORT_EXPONENT,
    ...PUBLIC_TRANSPORT_USAGE,
  };
}

/**
 * TRANSPORT, the AES key where it is made: it wraps, and leaves under the other token's public key.
 */
export function transportKeyTemplate(): ITemplate {
  return {
    class: ObjectClass.SECRET_KEY,
    keyType: KeyType.AES,
    valueLen: 32,
    token: false,
    private: true,
    sensitive: true,
    extractable: true,
    ...NO_USAGE,
    wrap: true,
  };
}

/** TRANSPORT, the AES key where it arrives: it unwraps, and can't leave. */
export function transportKeyUnwrapTemplate({
  valueLength,
}: Pick<TokenProfile, 'valueLength'>): ITemplate {
  return {
    class: ObjectClass.SECRET_KEY,
    keyType: KeyType.AES,
    ...(valueLength ? { valueLen: 32 } : {}),
    token: false,
    ...GUARDED,
    ...NO_USAGE,
    unwrap: true,
  };
}

/** Leaves out only what a token may lack, whatever a profile says. */
function withoutUnsupported(unsupported: readonly string[], template: ITemplate): ITemplate {
  const isLeftOut = (name: string) =>
    optionalAttributes.includes(name) && unsupported.includes(name);
  return Object.fromEntries(Object.entries(template).filter(([name]) => !isLeftOut(name)));
}

function classOf(role: TokenObjectRole): ObjectClass {
  return role === 'audit-signing' ? ObjectClass.PRIVATE_KEY : ObjectClass.SECRET_KEY;
}

/** CK_MECHANISM_TYPE[1] in this machine's layout. */
function mechanismList(mechanism: number): Buffer {
  const list = Buffer.alloc(8);
  list.writeBigUInt64LE(BigInt(mechanism));
  return list;
}
