/** A driver's memory in a process: accessible through the page tables, refused by get_user_pages(), gone when the driver takes it away. */
import { expect, test } from "vitest";
import { runSequentially, type Steps, u64, World } from "../../engine/index.ts";
import { hva, PAGE_SIZE } from "../../machine/index.ts";
import {
  getUser,
  getUserPage,
  getUserPageFast,
  insertPfn,
  Kernel,
  Mm,
  munmap,
  PageFrames,
  PROT_READ,
  PROT_WRITE,
  putUser,
  tryCmpxchgUser,
  unmapPfn,
  VM_PFNMAP,
} from "../index.ts";

const BASE = hva(0x7f00_0000_0000);
const END = hva(BASE + PAGE_SIZE);

function boot() {
  const world = new World({ staticBytes: 1024 * 1024, arenaBytes: PAGE_SIZE, tasksMax: 2 });
  new Kernel(world);
  const mm = new Mm(world, new PageFrames(world), BASE, 8);
  const frame = mm.frames.allocate("the driver's page");
  mm.addVma(BASE, END, PROT_READ | PROT_WRITE, { flags: VM_PFNMAP, pgoff: frame });
  insertPfn(mm, BASE, frame, true);
  const run = <T>(steps: Steps<T>): T => runSequentially(world, 0, "vmm", () => steps);
  const references = (): number => mm.frames.headOf(frame)._refcount.value;
  return { mm, frame, run, references };
}

test("the process and the kernel in its name use it, and leave no reference", () => {
  const { mm, run, references } = boot();
  expect(run(putUser(mm, BASE, u64(1, 2), 8))).toBe(true);
  expect(run(tryCmpxchgUser(mm, BASE, 8, u64(1, 2), u64(3, 4)))).toEqual(u64(1, 2));
  expect(run(getUser(mm, BASE, 8, true))).toEqual(u64(3, 4));
  expect(references()).toBe(1);
});

test("get_user_pages() refuses it", () => {
  const { mm, run } = boot();
  expect(run(getUserPageFast(mm, BASE, false))).toBeNull();
  expect(run(getUserPage(mm, BASE, true))).toBeNull();
});

test("what the driver takes away is there no more, and its frame is the driver's", () => {
  const { mm, frame, run, references } = boot();
  expect(run(unmapPfn(mm, BASE))).toBe(frame);
  expect(run(unmapPfn(mm, BASE))).toBeNull();
  expect(run(getUser(mm, BASE, 8))).toBeNull();
  expect(references()).toBe(1);
});

test("munmap() takes no reference of the driver's", () => {
  const { mm, run, references } = boot();
  expect(run(munmap(mm, BASE, END))).toBe(0);
  expect(run(getUser(mm, BASE, 8))).toBeNull();
  expect(references()).toBe(1);
});
