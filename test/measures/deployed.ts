/**
 * What deploy/ asks Prometheus for: the expressions of the dashboard and of the rules, and which
 * metrics and labels an expression names.
 *
 * Expressions are read as far as names go; that they are well-formed Prometheus itself says.
 */
import { readFileSync } from 'node:fs';
import { join } from 'node:path';

const DEPLOY = join(import.meta.dirname, '..', '..', 'deploy');
export const RULES = join(DEPLOY, 'prometheus', 'alerts.yaml');
export const DASHBOARD = join(DEPLOY, 'grafana', 'keyward.json');

/** One expression, and where it is. */
export interface Query {
  readonly where: string;
  readonly expression: string;
}

/** One panel of the dashboard, with its expressions. */
export interface Panel {
  readonly title: string;
  readonly expressions: readonly string[];
}

interface DashboardPanel {
  readonly type: string;
  readonly title: string;
  readonly targets?: readonly { readonly expr: string }[];
}

/** Returns the dashboard's panels that show something. */
export function panels(): readonly Panel[] {
  const { panels: all } = JSON.parse(readFileSync(DASHBOARD, 'utf8')) as {
    readonly panels: readonly DashboardPanel[];
  };
  return all
    .filter(({ type }) => type !== 'row')
    .map(({ title, targets = [] }) => ({ title, expressions: targets.map(({ expr }) => expr) }));
}

/** Returns every expression of the dashboard and of the rules. */
export function queriesOf(): readonly Query[] {
  const ofPanels = panels().flatMap(({ title, expressions }) =>
    expressions.map((expression) => ({ where: `panel “${title}”`, expression })),
  );
  const rules = readFileSync(RULES, 'utf8');
  const ofRules = [
    ...rules.matchAll(/- alert: (\w+)\n\s+expr: (?:\|\n)?([\s\S]*?)\n\s+for: /g),
  ].map(([, alert = '', expression = '']) => ({ where: `rule ${alert}`, expression }));
  return [...ofPanels, ...ofRules];
}

/** What stands between metrics without parentheses. */
const WORDS = new Set(['and', 'or', 'unless', 'bool']);

/** What an expression names. */
export interface Names {
  readonly metrics: readonly { readonly metric: string; readonly labels: readonly string[] }[];
  /** Labels that it groups or matches by, of whichever of the metrics. */
  readonly grouping: readonly string[];
}

/** Returns what an expression names. */
export function namesIn(expression: string): Names {
  const bare = expression
    .replaceAll(/"(?:[^"\\]|\\.)*"/g, '""')
    .replaceAll(/\[[^\]]*\]|\boffset \w+/g, ' ');
  const groups = /\b(?:by|without|on|ignoring|group_left|group_right)\s*\(([^)]*)\)/g;
  const grouping = [...bare.matchAll(groups)].flatMap(([, names = '']) => listed(names));
  const selectors = bare
    .replaceAll(groups, ' ')
    .matchAll(/\b([a-zA-Z_:][\w:]*)(\{[^}]*\})?(?=\s*(\(?))/g);
  const metrics = [...selectors].flatMap(([, metric = '', matchers = '', parenthesis]) => {
    if (WORDS.has(metric) || parenthesis === '(') return [];
    const labels = [...matchers.matchAll(/(\w+)\s*(?:=~|!~|!=|=)/g)].map(([, name = '']) => name);
    return [{ metric, labels }];
  });
  return { metrics, grouping };
}

function listed(names: string): string[] {
  return names
    .split(',')
    .map((name) => name.trim())
    .filter((name) => name !== '');
}
