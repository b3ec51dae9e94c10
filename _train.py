"""Train a detector on labelled frames. Edit the variables below, or set them: python _train.py batch_size=8 lr=5e-4

Run it again to resume; delete net.pt, optim.pt and iter.txt to start afresh, or give the next run a run_name. See the
curves in curves.png, or with start_tb.
"""

import math

import torch
from torch.utils.data import DataLoader

from konohana import checkpoint, detectors, distributed, inference
from konohana.cast import IGNORE_CLASS
from konohana.data.augment import training_transform
from konohana.data.dataset import Frames, collate
from konohana.data.paste import Paste
from konohana.data.reading import class_names_of, read_frames, report, unknown_names
from konohana.data.sampler import EpochBatches, repeat_rare_frames, upright
from konohana.errors import UserError
from konohana.evaluation.predict import predict_dataset
from konohana.evaluation.summary import evaluate
from konohana.interrupts import StopRequest, ignore_interrupts
from konohana.settings import override, require, resolve, run
from konohana.toy.writer import draw_default
from konohana.training import half_precision, logs
from konohana.training.engine import train_one_epoch
from konohana.training.memory import cap_gpu_memory, out_of_memory_explained
from konohana.training.run import Run
from konohana.training.schedule import Ema, make_optimizer

# data
konohana_dataset_path = 'toy_show'  # your dataset's folder; toy_show is drawn when it is not there
extra_dataset_path = ''  # a second dataset whose train split is learned too ('' for none)
train_split = 'train'  # what is learned
val_split = 'val'  # what the network is judged by ('' for no evaluation)
ignore_class = IGNORE_CLASS  # boxes of this name mark regions where nothing is learned or counted
skip_bad_files = False  # go on without files that have problems, instead of stopping

# network
detector = 'konohana'  # which network: konohana, yolof, solov2_light_r18, fasterrcnn_resnet50_fpn_v2, ...
img_hw = (360, 640)  # height and width that frames are resized to inside the network
use_res2block = False  # Res2Net's blocks; the files are then net_det3.pt, optim_det3.pt, iter_det3.txt
attention = 'se'  # what weighs channels in the flagship's blocks: se, coordinate or none
activation = 'relu6'  # of the flagship: relu6, hardswish, relu, silu, mish, gelu or acon
backbone = 'resnet50'  # of YOLOF: any network of torchvision, or of timm, that gives feature maps
frozen_stages = 1  # of SOLOv2's ResNet: 1 keeps the stem and the first stage as they are, 0 trains all of it
norm_eval = True  # batch norms of SOLOv2's ResNet keep their averages while training
init_from = ''  # weights to start from, e.g. 'weights/net.pt'
pretrained = None  # start from published weights: True (COCO) or 'backbone' (ImageNet), for detectors that have them

# training
batch_size = 16  # frames in a batch, of all processes together
accumulate = 1  # batches to sum up before a step, for small memory
n_epoch = 22  # how often each frame is seen; raise it where frames are few
max_minutes = 0.0  # minutes to train in the place of n_epoch, evaluation not counted; 0 for n_epoch
lr = 1e-3  # learning rate after warm-up
warmup_epochs = 1.0  # epochs in which the learning rate rises
weight_decay = 0.05  # of AdamW
backbone_lr = 0.3  # a backbone that does not start from nothing learns at this part of lr
clip_norm = 10.0  # gradients are clipped to this norm
ema_decay = 0.998  # of the moving average of weights that is tested
vram_limit_gib = 3.0  # cap on this process's GPU memory, 0 for none
amp = True  # half precision where it is safe, on CUDA and on CPUs with AMX
repeat_rare = 0.05  # frames with names that fewer than this part of the frames hold come up to twice, 0 for none
small_part = 0.65  # this first part of training sees frames at two thirds of img_hw: quicker (flagship, YOLOF)
group_by_aspect = False  # pictures higher than wide get batches of their own, with img_hw turned upright
seed = 0  # the same seed on the same machine gives the same run

# augmentation
augment = True  # False turns all of it off
flip = 0.5  # probability of mirroring left and right
scale = (0.75, 1.6)  # frames are scaled by a random factor between these
shift = True  # and put at a random place
colour = 0.4  # strength of brightness, contrast and saturation jitter, 0 for none
hue = 0.0  # jitter of the hue, 0 to 0.5
mosaic = False  # half of the samples are made of four frames
paste = 0.5  # probability that one or two characters, cut out of other frames, are pasted into a frame
random_erasing = 0.0  # probability that a rectangle is erased
trivial_augment = False  # TrivialAugment's changes of colour and sharpness, in the place of colour and hue
calm_part = 0.0  # this last part of training sees frames as they are, but for flip; 0 for none

# running
device = ''  # 'cuda', 'mps', 'cpu', or '' for the fastest there is
num_workers = 2  # processes that load frames, 0 for none
eval_every = 2  # epochs between evaluations on val
save_minutes = 3.0  # minutes between saves (also after each epoch)
run_name = ''  # keeps everything of the run in <log_path>/<run_name>, in the place of checkpoint_path
checkpoint_path = '.'  # folder of net.pt, optim.pt, iter.txt, net_best.pt
log_path = 'logs'  # folder of TensorBoard's logs and curves.png
progress = True  # show progress bars

FEW_STEPS = 1000  # below so many a training from nothing or from published weights has only begun
ENOUGH_STEPS = 2000  # the shipped weights had 2300


def main():
    settings = override(globals())
    require(
        settings,
        **dict.fromkeys(('batch_size', 'accumulate', 'n_epoch', 'eval_every'), (1, None)),
        **dict.fromkeys(('lr', 'warmup_epochs', 'weight_decay', 'save_minutes', 'vram_limit_gib'), (0, None)),
        **dict.fromkeys(('flip', 'colour', 'paste', 'random_erasing', 'ema_decay'), (0, 1)),
        **dict.fromkeys(('backbone_lr', 'repeat_rare', 'small_part', 'calm_part'), (0, 1)),
        **{'hue': (0, 0.5), 'num_workers': (0, 256), 'seed': (0, 2**63 - 1), 'clip_norm': (1e-6, None)},
        max_minutes=(0, None),
    )
    if not 0 < scale[0] <= scale[1]:
        raise UserError(f'scale={scale}: it takes the lowest and the highest factor, like (0.75, 1.6).')
    if not train_split:
        raise UserError("train_split='': name the split to learn, like 'train'.")
    if pretrained not in (None, False, True, 'backbone'):
        raise UserError(f"pretrained={pretrained!r}: it is None, True (COCO's weights) or 'backbone' (ImageNet's).")
    if pretrained and init_from:
        raise UserError(f'pretrained={pretrained!r} and init_from={init_from!r}: choose one of them.')
    if set(run_name) & set('/\\:*?"<>|') or run_name != run_name.strip(' .'):
        raise UserError(f'run_name={run_name!r}: it becomes the name of a folder, so without / \\ : * ? " < > |.')
    options = detectors.options_of(detector, settings)
    torch.manual_seed(seed)
    chosen_device = distributed.start(inference.pick_device(device))
    cap_gpu_memory(chosen_device, vram_limit_gib)

    # Frames and class names, with every problem of the data shown before anything starts.
    root = resolve(__file__, konohana_dataset_path)
    splits = [train_split, val_split] if val_split else [train_split]
    with distributed.first_rank_first():
        draw_default(root, resolve(__file__, '.'), splits, progress)
    (train_frames, *rest), problems = read_frames(root, splits, ignore_class, progress)
    val_frames = rest[0] if rest else []
    class_names = class_names_of(root, train_frames)
    if extra_dataset_path:
        extra_root = resolve(__file__, extra_dataset_path)
        (extra_frames,), extra_problems = read_frames(extra_root, [train_split], ignore_class, progress)
        class_names += [name for name in class_names_of(extra_root, extra_frames) if name not in class_names]
        train_frames, problems = train_frames + extra_frames, problems + extra_problems
    report(problems + unknown_names(train_frames + val_frames, class_names), skip_bad_files)
    train_frames, val_frames = (
        [frame for frame in frames if set(frame.names) <= set(class_names)] for frames in (train_frames, val_frames)
    )
    for split, frames in zip(splits, (train_frames, val_frames), strict=False):
        if not frames:
            raise UserError(f'{root}: no usable frame in split {split!r}.')
    if not class_names:
        raise UserError(f'{root}: no frame of split {train_split!r} has a labelled character. Label some.')

    model = detectors.build(detector, len(class_names), img_hw, **options)
    # Three stages: small frames, frames of img_hw, frames of img_hw without augmentation.
    small_hw = tuple(max(32, round(side / 24) * 16) for side in img_hw)
    calm = training_transform(img_hw, flip if augment else 0, None, False, 0, turn=group_by_aspect)
    small, large = (
        training_transform(hw, flip, scale, shift, colour, hue, random_erasing, trivial_augment, turn=group_by_aspect)
        if augment
        else training_transform(hw, 0, None, False, 0, turn=group_by_aspect)
        for hw in (small_hw, img_hw)
    )
    with_masks = model.wants_masks
    small_sizes = model.resizable
    shown_frames = repeat_rare_frames(train_frames, repeat_rare)
    pasting = Paste(train_frames, class_names, paste, progress) if paste and augment else None
    if pasting:
        print(f'{len(pasting.cut_outs)} characters can be cut out of their frames and pasted into others.')
    mosaic_hw = img_hw if mosaic and augment else None
    train_set = Frames(shown_frames, class_names, [small, large, calm], mosaic_hw, seed, with_masks, pasting)
    val_set = Frames(val_frames, class_names)
    groups = upright(shown_frames) if group_by_aspect else None
    loader = DataLoader(
        train_set,
        batch_sampler=EpochBatches(len(train_set), batch_size, seed, groups),
        num_workers=num_workers,
        collate_fn=collate,
        pin_memory=chosen_device.type == 'cuda',
        persistent_workers=num_workers > 0,
        worker_init_fn=ignore_interrupts,
    )

    # Network, optimizer, and what an earlier run left.
    model = model.to(chosen_device, memory_format=torch.channels_last)
    if amp:
        half_precision.quicken_depthwise(model)
    ema = Ema(model, ema_decay)
    optimizer = make_optimizer(model, lr, weight_decay, backbone_lr if init_from or pretrained else 1.0)
    scaler = torch.amp.GradScaler(chosen_device.type, enabled=amp and chosen_device.type == 'cuda')
    description = {'detector': detector, 'options': options, 'class_names': class_names, 'img_hw': list(img_hw)}
    n_batches = len(loader.batch_sampler.batches())
    order = {'seed': seed, 'batch_size': batch_size, 'frames': len(train_set), 'group_by_aspect': group_by_aspect}
    folder = resolve(__file__, log_path) / run_name if run_name else resolve(__file__, checkpoint_path)
    state = Run(folder, model, ema, optimizer, scaler, description, order, use_res2block)
    message = state.resume()
    if message:
        print(message)
    if state.iteration == 0 and (init_from or pretrained):
        with distributed.first_rank_first():
            print(model.load_pretrained(pretrained) if pretrained else initialise(model, class_names, options))
        ema.model.load_state_dict(model.state_dict())

    print(
        f'{len(train_frames)} frames to learn from, {len(val_frames)} to judge by, {len(class_names)} names: '
        f'{", ".join(class_names)}. Training {detector} on {chosen_device}.'
    )
    steps = n_batches * n_epoch // accumulate
    if steps < FEW_STEPS and not (init_from or max_minutes or state.iteration):
        enough = math.ceil(ENOUGH_STEPS * accumulate / n_batches)
        print(f'n_epoch={n_epoch} makes only {steps} steps of so few frames; n_epoch={enough} makes {ENOUGH_STEPS}.')
    if state.finished(settings):
        more = f'{state.minutes:.1f} minutes already. Raise max_minutes'
        if not max_minutes:
            more = f'{state.epoch} epochs already. Raise n_epoch'
        print(f'{state.net_file} has its {more}, or delete it to start afresh.')
        return
    log_folder = folder if run_name else resolve(__file__, log_path) / state.net_file.stem
    with (
        logs.Log(log_folder, state.iteration) as log,
        StopRequest() as stop,
        out_of_memory_explained(chosen_device, settings),
    ):
        while not state.finished(settings):
            part = state.part_done(settings)
            loader.batch_sampler.stage = 0 if small_sizes and part < small_part else 1 if part < 1 - calm_part else 2
            if small_sizes:
                model.transform.set_size(img_hw if loader.batch_sampler.stage else small_hw)
            losses, rate = train_one_epoch(state, loader, chosen_device, settings, stop, log.scalar)
            if stop.requested:
                state.save()
                print(f'Stopped at iteration {state.iteration} and saved. Run the same command again to go on.')
                return
            line = f'{state.position(settings)}: ' + ', '.join(f'{key} {value:.3f}' for key, value in losses.items())
            line += f', {rate:.1f} images/s'
            figures = None
            if val_frames and (state.epoch % eval_every == 0 or state.finished(settings)) and not distributed.rank():
                detections = predict_dataset(ema.model, val_set, progress=progress)
                figures = evaluate(val_frames, detections, class_names)
                state.figures = figures
                state.save_best(figures['AP'])
                log.figures(figures, state.iteration)
                log.pictures(val_set, detections, state.iteration)
                line += f'; val AP {figures["AP"]:.3f}, AP50 {figures["AP50"]:.3f}'
                line += f', found (AP50) {figures["AP50_agnostic"]:.3f}'
                if 'mask_AP' in figures:
                    line += f', mask AP {figures["mask_AP"]:.3f}'
            print(line)
            log.epoch(state.epoch + state.batches_done / n_batches, state.iteration, losses, figures)
            state.save()
    print(f'Done. Weights: {state.net_file}' + (f', the best on val: {state.best_file}' if val_frames else ''))
    print(f'Logs and curves.png: {log_folder}')


def initialise(model, class_names, options):
    """Start from the weights of `init_from`, as far as they fit; returns what was done, as one line of text.

    Args:
        model: the new detector, changed in place. class_names: its names. options: dict of its options.

    Raises:
        UserError: see `checkpoint.load`; weights of which nothing fits.
    """
    path = resolve(__file__, init_from)
    content = checkpoint.load(path)
    same_classes = content['class_names'] == class_names
    anew = () if same_classes else model.class_layers
    left = checkpoint.fit_weights(model, content['model'], skip=anew)
    if len(left) == len(model.state_dict()):
        raise UserError(
            f'{path}: nothing in it fits; it is of detector={content["detector"]!r}, and to be trained is {detector!r}.'
        )
    text = f'Starting from {path}.'
    if not same_classes:
        text += f' Its classes were {", ".join(content["class_names"])}, so the class layer starts anew.'
    for name, value in options.items():
        before = content.get('options', {}).get(name, value)
        if before != value:
            text += f' Its {name} was {before!r}, here it is {value!r}.'
    if left:
        text += f' Not taken from there: {", ".join(left[:8])}{" ..." if len(left) > 8 else ""}.'
    return text


if __name__ == '__main__':
    run(main)
