/**
 * Treiber's stack: is it safe to free a node as soon as it has been popped?
 *
 * Run it in a clone: npx node examples/treiber-stack.ts
 */
import {
  type Cell,
  cell,
  check,
  compareExchange,
  load,
  type Program,
  program,
  ptr,
  retire,
  type Steps,
  Struct,
  u53,
  type World,
} from "racewalk/engine";

const NODE = new Struct("node", { next: ptr, value: u53 });

interface Stack {
  readonly world: World;
  readonly top: Cell;
}

function* push({ world, top }: Stack, value: number): Steps<void> {
  const node = NODE.allocate(world);
  node.value.value = value;
  for (;;) {
    const first = yield* load(top);
    node.next.value = first; // still private
    if ((yield* compareExchange(top, first, node.addr)) === first) return;
  }
}

/** Returns the value popped; 0 when the stack is empty. */
function* pop({ world, top }: Stack, frees: boolean): Steps<number> {
  for (;;) {
    const first = yield* load(top);
    if (first === 0) return 0;
    const node = NODE.at(world, first);
    const next = yield* load(node.next);
    if ((yield* compareExchange(top, first, next)) !== first) continue;
    const value = yield* load(node.value);
    if (frees) yield* retire(world, first, "freed");
    return value;
  }
}

function stack(frees: boolean): Program {
  return program<Stack>({
    name: "treiber-stack",
    setup: (world) => ({ world, top: cell(world, "top") }),
    tasks: {
      *pusher(stack) {
        yield* push(stack, 1);
        yield* push(stack, 2);
      },
      popper: (stack) => pop(stack, frees),
      rival: (stack) => pop(stack, frees),
    },
    final: (_, got) => got["popper"] === 0 || got["popper"] !== got["rival"] || "one value was popped twice",
  });
}

const keeps = await check(stack(false));
console.log(`kept: ${keeps.verdict}, ${keeps.executions} executions`);

const frees = await check(stack(true));
console.log(`freed: ${frees.verdict}, ${frees.executions} executions`);
console.log(frees.failures[0]?.diagram);
