"""Can a robustness figure be believed? Checks of every attack, in plain words."""

import numpy as np

from mmdiff.attacks import Attack, GradientAttack, RandomNoise, Square, Transfer

from .robustness import arguments, main_metric

# Change of every value (of 255) at which an image has nothing that a model could need.
LARGE = 64
# What sees no gradient of the model.
BLIND = 'noise', 'square', 'transfer'
# A gradient costs about three passes: black-box search gets as much time.
QUERIES_PER_STEP = 3


def settings(attack: Attack) -> dict:
    """The arguments an attack was built with (it keeps each under its name)."""
    names = arguments(type(attack))
    return {name: getattr(attack, name) for name in names if hasattr(attack, name)}


def variant(attack: Attack, **changes) -> Attack:
    """The attack built anew, with other settings where it has them."""
    old = settings(attack)
    if 'attack' in old:  # an attack around another, which has the settings
        changes = dict(attack=variant(old['attack'], **changes))
    return type(attack)(**{**old, **{k: v for k, v in changes.items() if k in old}})


def controls(attack: Attack, values: int) -> dict[str, Attack]:
    """Runs that an attack with a budget is compared with, by name.

    Args:
        attack: It; all controls are for gradient attacks, some for others.
        values: Pixel values of an image, for the size of an L2 budget.
    """
    eps = attack.eps
    alike = {k: getattr(attack, k) for k in ('quantize', 'gt_scale', 'seed')}
    found = dict(noise=RandomNoise(eps, attack.norm, **alike))
    if isinstance(attack, Transfer):  # more steps fit the source, not the victim
        return found
    # Twice the steps; ten more if there are fewer, to find those that are too few.
    steps = attack.steps + max(10, attack.steps)
    longer = dict(steps=steps, restarts=1)
    if not isinstance(attack, GradientAttack):
        return dict(found, longer=variant(attack, **longer))
    size = settings(attack).get('step_size')
    large = max(eps, LARGE * (1 if attack.norm == 'linf' else values**0.5))
    larger = dict(longer, eps=large)
    if size is not None:  # a constant step; else the attack sees to it
        longer['step_size'] = min(size, 2.5 * eps / steps)
        larger['step_size'] = 2.5 * large / steps
    found['longer'], found['large'] = (
        variant(attack, **longer),
        variant(attack, **larger),
    )
    alike |= {k: getattr(attack, k) for k in ('norm', 'objective', 'eot', 'proposals')}
    found['square'] = Square(eps, QUERIES_PER_STEP * attack.steps, **alike)
    return found


def check_entry(entry: dict, clean: dict) -> list[str]:
    """What one attack did that it should not; adds shares to ``entry['sanity']``."""
    sanity, eps, reasons = entry['sanity'], entry['eps'], []
    images, grads = max(sanity['images'], 1), max(entry['cost']['grad_evals'], 1)
    sanity['changed_share'] = sanity['changed'] / images
    # A mean over several passes is one gradient of several evaluations.
    sanity['zero_share'] = sanity['zero_grads'] * (entry.get('eot') or 1) / grads
    sanity['nonfinite_share'] = sanity['nonfinite_grads'] / grads
    if sanity['blocked']:
        reasons.append(
            f'met no gradient at all on {sanity["blocked"]} images (a module runs '
            'under no_grad or detaches): their detections are the clean ones'
        )
    # DAG leaves an image alone in which no proposal shows an object: if that is
    # most of them, the detector is too weak for DAG to say anything.
    elif eps != 0 and sanity['images'] and sanity['changed_share'] <= 0.5:
        reasons.append(f'changed {sanity["changed"]} of {sanity["images"]} images only')
    start, end = sanity['objective_ends'] or (0, 1)
    # Means per image. An attack that keeps the best iterate returns at worst the first.
    if eps != 0 and not end > start + 1e-6 * abs(start):
        reasons.append(f'did not raise its objective ({start:.4g} to {end:.4g})')
    if sanity['nonfinite_grads']:
        reasons.append(f'met {sanity["nonfinite_grads"]} non-finite gradients')
    # A loss can be flat on an image or two; on a tenth of all gradients it hides.
    if sanity['zero_share'] > 0.1:
        reasons.append(
            f'met {sanity["zero_grads"]} gradients of {grads} that were zero'
        )
    size = sanity['max_delta'] if entry['norm'] == 'linf' else sanity['max_l2']
    # float32 around 255 resolves 1.5e-5; a norm sums over many pixels.
    if eps is not None and size > eps + 1e-3 * max(1, eps):
        reasons.append(f'left its budget: a change of {size:.4g}')
    if sanity['images'] and not 0 <= sanity['pixel_min'] <= sanity['pixel_max'] <= 255:
        ends = f'{sanity["pixel_min"]:.4g} to {sanity["pixel_max"]:.4g}'
        reasons.append(f'left the range of pixels: {ends}')
    if entry['role'] == 'attack':
        before, after = main_metric(clean), main_metric(entry)
        # A tie broken otherwise moves one class of one image.
        if after > before + max(1e-3, 0.2 / entry['num_images']):
            reasons.append(
                f'raised the metric above the clean one ({before:.3f} to {after:.3f})'
            )
    return [f'{name_of(entry)} {reason}' for reason in reasons]


def name_of(entry: dict) -> str:
    where = 'no budget' if entry['eps'] is None else f'eps={entry["eps"]:g}'
    return f'{entry["label"]} at {where}'


def count_differing(first, second) -> int:
    """Images on which two clean runs differ in their surest detections."""
    different = 0
    for a, b in zip(first.detections, second.detections):
        a, b = (np.sort(d['scores'].numpy())[::-1] for d in (a, b))
        both = min(len(a), len(b))
        # Kernels that add in any order move a score by 1e-5, and by that one across
        # the threshold; fresh noise moves it by more than 1e-3.
        apart = np.abs(a[:both] - b[:both]).max(initial=0)
        different += int(apart > 1e-3 or both < 0.5 * max(len(a), len(b)))
    return different


def check_rows(rows: list[dict], clean: dict) -> None:
    """Compare noise and black-box search in a plan with its other attacks.

    Args:
        rows: Entries of one budget; reasons are added to them.
        clean: The clean entry.
    """
    slack, base = max(0.02, 1 / clean['num_images']), clean['image_ap']
    aps = {k: [r['image_ap'] for r in rows if r['attack'] == k] for k in BLIND}
    noise, black = (min(aps[k], default=1.0) for k in ('noise', 'square'))
    for row in (r for r in rows if r['role'] == 'attack'):
        own, name = row['image_ap'], name_of(row)
        if noise < min(own - slack / 2, base - slack):
            row['reasons'].append(
                f'{name} hurts less than noise of its size (mean AP per image '
                f'{own:.3f} against {noise:.3f})'
            )
        # A row that counts those above it says nothing about itself.
        alone = not any(r.get('cumulative') for r in rows)
        if alone and row['attack'] not in BLIND and black < own - slack:
            row['reasons'].append(
                f'{name} leaves a mean AP per image of {own:.3f}, black-box search '
                f'{black:.3f}: its gradients may be hidden'
            )


def check_controls(name: str, clean, attacked, runs: dict) -> tuple[dict, list[str]]:
    """Compare a gradient attack with its :func:`controls`, image by image.

    Args:
        name: Of the attack.
        clean, attacked: Records of the clean run and of the attack.
        runs: Records of the controls, on the first images of those.

    Returns:
        Figures (mean AP per image, unless named otherwise) and reasons.
    """
    images = min(len(run.ap) for run in runs.values())
    base, hit = clean.ap[:images].mean(), attacked.ap[:images].mean()
    found = dict(clean=base, attacked=hit) | {k: r.ap.mean() for k, r in runs.items()}
    found = dict(images=images, attack=name) | {k: float(v) for k, v in found.items()}
    # Of few images, the luck of one must not decide.
    slack, reasons = max(0.02, 1 / images), []
    # Noise that hurts no more than chance says nothing, nor does one that leaves
    # nothing, beside which no attack can stand out.
    if found['noise'] < hit - slack / 2 and found['noise'] < base - slack:
        reasons.append(
            f'hurts less than noise of its size (mean AP per image {hit:.3f} against '
            f'{found["noise"]:.3f})'
        )
    if 'longer' in runs:
        gain = attacked.ap[:images] - runs['longer'].ap
        net = int((gain > 0.05).sum() - (gain < -0.05).sum())
        # More steps always help a little: a tenth of the clean AP is much.
        if gain.mean() > 0.1 * base and net > max(1, images / 8):
            reasons.append(
                f'is not converged: more steps lower the mean AP per image from '
                f'{hit:.3f} to {found["longer"]:.3f}'
            )
    if 'large' in runs and found['large'] > 0.1 * base + slack:
        reasons.append(
            f'leaves a mean AP per image of {found["large"]:.3f} (clean {base:.3f}) at '
            'a budget that hides everything: its gradients lead nowhere'
        )
    if 'square' in runs:
        losses = np.stack([attacked.loss[:images], runs['square'].loss])
        both = np.isfinite(losses).all(0)  # an image left out has none
        white, black = losses[:, both].sum(1) / max(both.sum(), 1)
        found |= dict(objective=float(white), square_objective=float(black))
        # Both search at random at first: ties within 5 % are chance.
        if black - white > 0.05 * abs(white):
            reasons.append(
                f'reaches an objective of {white:.4g}, black-box search {black:.4g}: '
                'its gradients are hidden'
            )
    return found, [f'{name} {reason}' for reason in reasons]
