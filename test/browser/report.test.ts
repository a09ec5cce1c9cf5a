/** A report in a real browser: it opens from disk, steps, and asks the network for nothing. */
import { spawnSync } from "node:child_process";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { pathToFileURL } from "node:url";
import { type Browser, chromium, type Page } from "playwright-core";
import { afterAll, beforeAll, describe, expect, test } from "vitest";

function find(): string | null {
  for (const name of ["chromium", "chromium-browser", "google-chrome"]) {
    const found = spawnSync("sh", ["-c", `command -v ${name}`], { encoding: "utf8" }).stdout.trim();
    if (found !== "") return found;
  }
  return null;
}

const executablePath = find();
if (executablePath === null) console.log("no Chromium is installed: the report is not tried in a browser");

/** The rows under a heading of the stepper's state. */
async function viewTexts(page: Page, heading: string): Promise<string[]> {
  return page
    .locator("details.view", { has: page.locator("summary", { hasText: heading }) })
    .locator("tr")
    .allTextContents();
}

/** Steps through the first race by its own button, in the page: the rows seen under each heading. */
const WALK = `(() => {
  const race = document.querySelector(".stepper");
  const press = (name) => race.querySelector('[aria-label="' + name + '"]').click();
  const seen = {};
  const look = () => {
    for (const view of race.querySelectorAll("details.view")) {
      const heading = view.querySelector("summary").textContent;
      seen[heading] = [...new Set([...(seen[heading] ?? []), ...[...view.querySelectorAll("tr")].map((row) => row.textContent)])];
    }
  };
  press("first");
  const isOver = () => /^step (\\d+) of \\1$/.test(race.querySelector(".count").textContent);
  for (look(); !isOver(); look()) press("forward");
  return seen;
})()`;

describe.skipIf(executablePath === null)("a report", () => {
  const folder = mkdtempSync(join(tmpdir(), "racewalk-report-"));
  const file = join(folder, "report.html");
  const requests: string[] = [];
  const errors: string[] = [];
  let browser: Browser;
  let page: Page;

  beforeAll(async () => {
    const { status, stderr } = spawnSync(
      process.execPath,
      ["src/cli/main.ts", "check", "gpc-refresh", "--variant", "D4-nomb", "--html", file],
      { encoding: "utf8" },
    );
    expect(status, stderr).toBe(0);
    browser = await chromium.launch({ executablePath: executablePath ?? "", args: ["--no-sandbox", "--disable-gpu"] });
    page = await browser.newPage();
    page.on("request", (request) => requests.push(request.url()));
    page.on("pageerror", (error) => errors.push(error.message));
    await page.goto(pathToFileURL(file).href);
  }, 60_000);

  afterAll(async () => {
    await browser.close();
    rmSync(folder, { recursive: true });
  });

  test("asks the question and gives the verdicts", async () => {
    expect(await page.locator("h1").textContent()).toContain("gfn_to_pfn_cache");
    expect(await page.locator("table.verdicts tbody tr").count()).toBe(2);
    expect(await page.locator("table.verdicts tr.fails").count()).toBe(1);
  });

  test("steps through the race, and shows the store that waits in its buffer", async () => {
    const count = page.locator(".count");
    await page.getByLabel("steps of one CPU alone, too").check();
    const steps = await page.locator(".step").count();
    await page.getByRole("button", { name: "first" }).click();
    expect(await count.textContent()).toBe(`step 0 of ${steps}`);
    const buffers: string[] = [];
    for (let at = 1; at <= steps; at++) {
      await page.getByRole("button", { name: "forward" }).click();
      expect(await count.textContent()).toBe(`step ${at} of ${steps}`);
      expect(await page.locator(".step.now").count()).toBe(1);
      buffers.push(...(await viewTexts(page, "Store buffers")));
    }
    expect(buffers.some((text) => text.includes("gpc->valid = 1"))).toBe(true);
    expect(await page.locator(".verdict").textContent()).toMatch(/^isolation: /);
  });

  test("leaves out what one CPU does alone, unless it is wanted", async () => {
    await page.getByLabel("steps of one CPU alone, too").uncheck();
    await page.getByRole("button", { name: "first" }).click();
    await page.getByRole("button", { name: "forward" }).click();
    expect(await page.locator(".step.now.private").count()).toBe(0);
    expect(await page.locator(".step.private:visible").count()).toBe(0);
  });

  test("fits a phone", async () => {
    await page.setViewportSize({ width: 390, height: 800 });
    const overflow = await page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth");
    expect(overflow).toBeLessThanOrEqual(0);
  });

  test("prints its diagrams without the stepper", async () => {
    await page.emulateMedia({ media: "print" });
    expect(await page.locator(".stepper").isVisible()).toBe(false);
    expect(await page.locator("pre.diagram").isVisible()).toBe(true);
  });

  test("needs no network and has no error", () => {
    expect(requests.filter((url) => !url.startsWith("file:"))).toEqual([]);
    expect(errors).toEqual([]);
  });
});

interface Shown {
  readonly study: string;
  readonly variant: string;
  /** What some step must show, by heading. */
  readonly seen: Readonly<Record<string, RegExp>>;
  readonly measures?: true;
}

/** A failing variant of each thread's study. */
const STUDIES: readonly Shown[] = [
  {
    study: "gpc-refresh",
    variant: "D0h",
    seen: {
      gfn_to_pfn_cache: /gpc->valid1/,
      "Host page tables": /frame [0-9a-f]+: present W/,
      Locks: /held for write by refresh/,
    },
  },
  {
    study: "root-zap",
    variant: "Z5",
    seen: {
      "Page tables": /spte\(l1 gfn 1\)frame [0-9a-f]+: P W U A D host-W MMU-W/,
      RCU: /waiting for a grace period: sp\(l4 gfn 0\)/,
      Locks: /kvm->mmu_lockheld for read by zap/,
      TLBs: /vcpu0: page 1, 4Kframe [0-9a-f]+: rwxu/,
      CPUs: /KVM_REQ_MMU_FREE_OBSOLETE_ROOTS/,
    },
  },
  {
    study: "lockless-walk",
    variant: "V2",
    seen: { "Store buffers": /rcu_free_shadow_page = 1/, RCU: /in a read-side section/ },
  },
  { study: "lockless-aging", variant: "A6-store", seen: { "Page tables": /access-tracked\(RX\)/ } },
  {
    study: "lazy-large-spte",
    variant: "B7",
    seen: { "Page tables": /large/, KVM: /mmu_invalidate_seq/ },
    measures: true,
  },
];

describe.skipIf(executablePath === null)("the report of each thread's study", () => {
  const folder = mkdtempSync(join(tmpdir(), "racewalk-reports-"));
  let browser: Browser;
  beforeAll(async () => {
    browser = await chromium.launch({ executablePath: executablePath ?? "", args: ["--no-sandbox", "--disable-gpu"] });
  });
  afterAll(async () => {
    await browser.close();
    rmSync(folder, { recursive: true });
  });

  test.for(STUDIES)("$study opens, steps and fits a phone", { timeout: 120_000 }, async (shown) => {
    const { study, variant, seen, measures } = shown;
    const file = join(folder, `${study}.html`);
    const words = ["check", study, "--variant", variant, "--html", file, ...(measures ? ["--measure"] : [])];
    const { status, stderr } = spawnSync(process.execPath, ["src/cli/main.ts", ...words], { encoding: "utf8" });
    expect(status, stderr).toBe(0);
    const page = await browser.newPage();
    const errors: string[] = [];
    page.on("pageerror", (error) => errors.push(error.message));
    await page.goto(pathToFileURL(file).href);
    expect(await page.locator(".figure > svg").count()).toBe(measures ? 1 : 0);
    const texts = (await page.evaluate(WALK)) as Record<string, string[]>;
    const missing = Object.entries(seen).filter(
      ([heading, text]) => !(texts[heading] ?? []).some((row) => text.test(row)),
    );
    expect(missing).toEqual([]);
    await page.setViewportSize({ width: 390, height: 844 });
    expect(await page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")).toBe(0);
    expect(errors).toEqual([]);
    await page.close();
  });
});
