/**
 * Finds the commands that a user may have meant by words that are none.
 *
 * - It knows the words of other tools, mistyped ones, and a verb before its noun. Nothing is run.
 */
import type { Command } from 'commander';

/** Words for the same, whichever of them the command has. */
const SYNONYMS: readonly (readonly string[])[] = [
  ['list', 'ls', 'all', 'get', 'search', 'find'],
  ['get', 'show', 'describe', 'info', 'view', 'inspect', 'cat', 'read'],
  [
    'delete',
    'destroy',
    'rm',
    'remove',
    'del',
    'erase',
    'shred',
    'unbind',
    'revoke',
    'drop',
    'lift',
  ],
  ['create', 'add', 'new', 'make', 'register', 'generate'],
  ['bind', 'grant', 'allow', 'assign'],
  ['update', 'set', 'edit', 'change', 'modify', 'patch', 'label', 'annotate'],
  ['suspend', 'suspension', 'ban', 'block'],
  ['use', 'switch', 'select'],
  ['profile', 'context', 'config'],
  ['login', 'signin', 'auth'],
  ['logout', 'signout'],
  ['whoami', 'me', 'id', 'user'],
  ['watch', 'follow', 'tail', 'logs', 'log'],
  ['audit', 'log', 'logs'],
  ['history', 'rotation'],
  ['access', 'binding', 'policy', 'permission', 'grant', 'rbac', 'iam'],
  ['role', 'policy'],
  ['status', 'health', 'ping', 'check', 'doctor'],
  ['version', 'about'],
  ['re', 'rewrap', 'reencrypt'],
  ['rotate', 'roll', 'renew'],
  ['tenant', 'namespace', 'ns', 'org', 'project'],
  ['encrypt', 'enc', 'seal'],
  ['decrypt', 'dec', 'open', 'unseal'],
];

/** The most that are suggested. */
const MOST = 4;

/** Commands whose scores differ by less are suggested together. */
const CLOSE = 0.5;

/**
 * Returns the commands that words may mean, best first; none where nothing is like them. The first
 * `known` words name a group of commands, in which the next is to be found.
 */
export function suggestions(
  program: Command,
  words: readonly string[],
  known: number,
): readonly string[] {
  const typed = words.slice(0, Math.max(known + 1, 3)).map(stem);
  const found = leavesOf(program)
    .filter((path) => words.slice(0, known).every((word, i) => path[i] === word))
    .map((path) => ({ path, score: scoreOf(typed, path, known) }))
    .filter(({ score }) => score > 0);
  const best = Math.max(...found.map(({ score }) => score));
  const likely = found
    .filter(({ score }) => score > best - CLOSE)
    .toSorted((one, other) => other.score - one.score)
    .slice(0, MOST)
    .map(({ path }) => path);
  return groupOf(likely, words) ?? likely.map((path) => path.join(' '));
}

/** A group's own name, where what was typed is like it, and several of its commands may do. */
function groupOf(
  [first = [], ...others]: readonly (readonly string[])[],
  words: readonly string[],
): readonly string[] | undefined {
  const group = first.slice(0, words.length);
  const isLike = alike(stem(words.at(-1) ?? ''), stem(group.at(-1) ?? '')) > 0;
  const isOne = isLike && others.length > 0 && first.length > group.length;
  const isShared = others.every((path) => group.every((word, i) => path[i] === word));
  return isOne && isShared ? [group.join(' ')] : undefined;
}

/** Every command that does something, by its words. */
function leavesOf(command: Command, path: readonly string[] = []): (readonly string[])[] {
  return command
    .createHelp()
    .visibleCommands(command)
    .flatMap((each) => {
      if (each.name() === 'help') return [];
      const own = [...path, each.name()];
      return each.commands.length === 0 ? [own] : leavesOf(each, own);
    });
}

/** How much of what was typed a command has; 0 for one without the first word that is unknown. */
function scoreOf(typed: readonly string[], path: readonly string[], known: number): number {
  // `keys versions` lists them.
  const whole = [...path.map(stem), ...(isPlural(path.at(-1) ?? '') ? ['list'] : [])];
  const parts = path.flatMap((word) => (word.includes('-') ? word.split('-') : [])).map(stem);
  const scores = typed.map((word) =>
    Math.max(...whole.map((own) => alike(word, own)), ...parts.map((own) => alike(word, own) - 1)),
  );
  const unknown = scores[known] ?? 0;
  return unknown <= 0 ? 0 : scores.reduce((sum, score) => sum + score, 0) - unsaid(typed, whole);
}

/** A little for each word of the command that was not typed: shorter commands are likelier. */
function unsaid(typed: readonly string[], path: readonly string[]): number {
  return 0.1 * path.filter((word) => typed.every((each) => alike(each, word) === 0)).length;
}

/** 4 for the same word, 3 for one that means the same, 2 for one that is mistyped. */
function alike(word: string, own: string): number {
  if (word === own || (word === 'get' && ['list', 'show'].includes(own))) return 4;
  if (SYNONYMS.some((row) => row.includes(word) && row.includes(own))) return 3;
  if (word.includes('-') && own.endsWith(`-${word}`)) return 3;
  const shorter = Math.min(word.length, own.length);
  return shorter > 2 && distance(word, own) <= (shorter > 4 ? 2 : 1) ? 2 : 0;
}

function stem(word: string): string {
  const lower = word.toLowerCase();
  return isPlural(lower) ? lower.slice(0, -1) : lower;
}

function isPlural(word: string): boolean {
  return /..[^su]s$/.test(word);
}

/** The least number of letters to add, drop, change, or swap with their neighbour. */
function distance(one: string, other: string): number {
  const rows = [Array.from({ length: other.length + 1 }, (_, i) => i)];
  const at = (i: number, j: number) => rows[i]?.[j] ?? 0;
  for (let i = 1; i <= one.length; i++) {
    const row = [i];
    rows.push(row);
    for (let j = 1; j <= other.length; j++) {
      const isSame = one[i - 1] === other[j - 1];
      const isSwapped =
        i > 1 && j > 1 && one[i - 1] === other[j - 2] && one[i - 2] === other[j - 1];
      row[j] = Math.min(
        at(i - 1, j) + 1,
        at(i, j - 1) + 1,
        at(i - 1, j - 1) + (isSame ? 0 : 1),
        isSwapped ? at(i - 2, j - 2) + 1 : Number.POSITIVE_INFINITY,
      );
    }
  }
  return at(one.length, other.length);
}
