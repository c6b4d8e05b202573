/**
 * Requests and responses about the HSM token that the service uses.
 */

/** Asks for {@link TokenStatus}. */
export type GetTokenStatusRequest = Readonly<Record<string, never>>;

/** The HSM token, and the environment's objects in it. */
export interface TokenStatus {
  /** The environment's, lower-case UUID text. */
  readonly environmentUid: string;
  /** The PKCS#11 library by which the token is reached. */
  readonly module: TokenModule;
  readonly label: string;
  readonly serialNumber: string;
  readonly manufacturer: string;
  readonly model: string;
  readonly firmwareVersion: string;
  readonly hardwareVersion: string;
  readonly profile: TokenProfile;
  /**
   * Those that all tenants share, and tenants' own root keys, oldest first; without those that were
   * destroyed for good.
   */
  readonly objects: readonly TokenObject[];
  /** Keys with labels like those of a Keyward environment that the database doesn't know. */
  readonly unrecordedObjects: readonly UnrecordedTokenObject[];
}

/** A PKCS#11 library, as it describes itself. */
export interface TokenModule {
  readonly description: string;
  readonly version: string;
  readonly manufacturer: string;
}

/** How a token wants to be spoken to. */
export interface TokenProfile {
  /** The type of unwrapped key material. */
  readonly keyType: string;
  /** What root keys wrap with. */
  readonly wrapMechanism: string;
  /** Where templates for unwrapping have the attribute that tokens want in a certain place. */
  readonly attributeOrder: string;
  /** Whether templates for unwrapping say CKA_VALUE_LEN. */
  readonly valueLength: boolean;
  /** Whether unwrapped material is narrowed to HMAC-SHA-512. */
  readonly allowedMechanisms: boolean;
  /** Required attributes that the token knows no way to hold to; each needs a waiver. */
  readonly unsupportedAttributes: readonly string[];
}

/** What a token object is for; `UNSPECIFIED` is a role newer than this client. */
export type TokenObjectRole = 'UNSPECIFIED' | 'ROOT' | 'SEAL' | 'MASK' | 'AUDIT_SIGNING';

/** Whether a token has an object; `UNSPECIFIED` is a condition newer than this client. */
export type TokenObjectCondition =
  | 'UNSPECIFIED'
  | 'FOUND'
  | 'MISSING'
  | 'DUPLICATED'
  | 'MISLABELLED';

/**
 * Whether a token holds to a required attribute; `UNSPECIFIED` is a state newer than this client.
 */
export type TokenAttributeState =
  | 'UNSPECIFIED'
  | 'ENFORCED'
  | 'WAIVED'
  | 'UNSUPPORTED'
  | 'VIOLATED';

/** One of the environment's objects in the token. */
export interface TokenObject {
  /** Its CKA_ID, lower-case UUID text. */
  readonly uid: string;
  readonly role: TokenObjectRole;
  /** Whether it is the one for new things. */
  readonly current: boolean;
  readonly condition: TokenObjectCondition;
  /** Every required attribute; none when the token hasn't exactly one object of this id. */
  readonly attributes: readonly TokenAttribute[];
  /** How many key versions are wrapped under it, destroyed ones aside; 0 for all but root keys. */
  readonly keyVersions: number;
  /** Whose it is: `tenants/{tenant}`; `tenants/system` for what tenants share. */
  readonly tenant: string;
  /** What an operator has to do about it, in words and with the command; empty if nothing. */
  readonly toDo: string;
}

/** One required attribute of a token object. */
export interface TokenAttribute {
  /** As PKCS#11 names it, without CKA_ and in camel case. */
  readonly name: string;
  readonly requiredValue: string;
  readonly state: TokenAttributeState;
}

/** A key in the token that the database doesn't know. */
export interface UnrecordedTokenObject {
  /** Its CKA_ID: UUID text, or hexadecimal digits where it is no UUID. */
  readonly uid: string;
  readonly label: string;
}
