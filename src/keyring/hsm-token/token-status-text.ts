/**
 * A token's status as text for people: what `keyward-server token status` prints.
 *
 * Its invariant: every object and every required attribute is in it, what is wrong first. Knows no
 * token.
 */
import type { AttributePosture } from '../../hsm/token-profile.ts';
import { formatTenantName, SYSTEM_TENANT } from '../../names.ts';
import type { MoveProgress, TokenRecord } from '../../store/hsm-token/tokens.ts';
import { tokenInWords } from './serving-tokens.ts';
import { TOKEN_COPIES, type TokenObjectStatus, type TokenStatusRecord } from './token-status.ts';

/** States of attributes, in the order in which they matter. */
const STATES = [
  'violated',
  'unsupported',
  'waived',
  'enforced',
] as const satisfies AttributePosture['state'][];
const STATE_WORDS = {
  violated: 'VIOLATED',
  unsupported: 'UNSUPPORTED, not waived',
  waived: 'unsupported, waived',
  enforced: 'enforced',
} as const;

/** Returns the text that `keyward-server token status` prints, with a final line end. */
export function tokenStatusText(status: TokenStatusRecord): string {
  const { module, profile, unrecorded } = status;
  const lines = [
    `token        ${status.label} (serial ${status.serialNumber})`,
    `             ${status.model} by ${status.manufacturer}; firmware ${status.firmwareVersion}, hardware ${status.hardwareVersion}`,
    `module       ${module.description} ${module.version} (${module.manufacturer})`,
    `environment  ${status.environmentId}`,
    `profile      ${profile.wrapMechanism}; unwrapped keys are ${profile.keyType}; ${profile.attributeOrder}`,
    `             CKA_VALUE_LEN ${profile.valueLength ? 'given' : 'left out'} when unwrapping; CKA_ALLOWED_MECHANISMS ${profile.allowedMechanisms ? 'narrows' : 'does not narrow'} unwrapped keys`,
    `             attributes that the token cannot enforce: ${profile.unsupportedAttributes.join(', ') || 'none'}`,
    ...status.objects.flatMap(objectLines),
    ...(status.objects.some(({ isShredded }) => isShredded)
      ? [
          '',
          'Root keys of shredded tenants may also be in:',
          ...TOKEN_COPIES.map((copy) => `  - ${copy}`),
        ]
      : []),
    ...unrecorded.map(
      ({ objectId, label }) => `NOT RECORDED  ${objectId}, labelled ${JSON.stringify(label)}`,
    ),
  ];
  return `${lines.join('\n')}\n`;
}

/** The tokens that are recorded, where there are several, and how far key versions have moved. */
export function tokensText(
  tokens: readonly TokenRecord[],
  { versions, copied, leftBehind }: MoveProgress,
): string {
  if (tokens.length === 1) return '';
  const lines = tokens.map((token) => {
    const more = {
      CURRENT: '',
      NEXT: `; ${copied} of ${versions} key versions are copied`,
      FORMER: leftBehind > 0 ? `; keys of former tokens that are not destroyed: ${leftBehind}` : '',
    };
    return `${token.state.toLowerCase().padEnd(13)}${tokenInWords(token)}${more[token.state]}`;
  });
  return `${lines.sort().join('\n')}\n`;
}

function objectLines({
  role,
  objectId,
  tenant,
  isCurrent,
  condition,
  attributes,
  keyVersions,
  toDo,
}: TokenObjectStatus): string[] {
  const facts = [
    `${role} ${objectId}`,
    ...(tenant === SYSTEM_TENANT ? [] : [`of ${formatTenantName({ tenant })}`]),
    isCurrent ? 'current' : 'not current',
    ...(role === 'root' ? [`${keyVersions} key versions`] : []),
    ...(condition === 'found' ? [] : [condition.toUpperCase()]),
  ];
  const byState = STATES.flatMap((state) => {
    const those = attributes.filter((each) => each.state === state);
    if (those.length === 0) return [];
    return [
      `  ${STATE_WORDS[state]}: ${those.map((each) => `${each.attribute}=${each.required}`).join(' ')}`,
    ];
  });
  return ['', facts.join(', '), ...(toDo === '' ? [] : [`  TO DO: ${toDo}`]), ...byState];
}
