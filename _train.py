"""Train a detector on labelled frames. Edit the variables below, or set them: python _train.py batch_size=8 lr=5e-4

Run it again to resume; delete net.pt, optim.pt and iter.txt to start afresh. See the curves with start_tb.
"""

import torch
from torch.utils.data import DataLoader

from konohana import checkpoint, detectors, evaluation, inference, logs, training
from konohana.cast import IGNORE_CLASS
from konohana.data.augment import training_transform
from konohana.data.dataset import EpochBatches, Frames, class_names_of, collate, read_frames, report, unknown_names
from konohana.settings import UserError, override, require, resolve, run

# data
konohana_dataset_path = 'toy_show'  # your dataset's folder; toy_show is drawn when it is not there
extra_dataset_path = ''  # a second dataset whose train split is learned too ('' for none)
train_split = 'train'  # what is learned
val_split = 'val'  # what the network is judged by ('' for no evaluation)
ignore_class = IGNORE_CLASS  # boxes of this name mark regions where nothing is learned or counted
skip_bad_files = False  # go on without files that have problems, instead of stopping

# network
detector = 'konohana'  # which network
img_hw = (360, 640)  # height and width that frames are resized to inside the network
use_res2block = False  # Res2Net's blocks; the files are then net_det3.pt, optim_det3.pt, iter_det3.txt
init_from = ''  # weights to start from, e.g. 'weights/net.pt', or 'efficientnet_lite0'

# training
batch_size = 16  # frames in a batch
accumulate = 1  # batches to sum up before a step, for small memory
n_epoch = 50  # how often each frame is seen
lr = 1e-3  # learning rate after warm-up
warmup_epochs = 1.0  # epochs in which the learning rate rises
weight_decay = 0.05  # of AdamW
clip_norm = 10.0  # gradients are clipped to this norm
ema_decay = 0.998  # of the moving average of weights that is tested
vram_limit_gib = 3.0  # cap on this process's GPU memory, 0 for none
amp = True  # half precision where it is safe, on CUDA
seed = 0  # the same seed on the same machine gives the same run

# augmentation
flip = 0.5  # probability of mirroring left and right
scale = (0.6, 1.6)  # frames are scaled by a random factor between these
shift = True  # and put at a random place
colour = 0.4  # strength of brightness, contrast and saturation jitter, 0 for none
hue = 0.0  # jitter of the hue, 0 to 0.5
mosaic = False  # half of the samples are made of four frames

# running
device = ''  # 'cuda', 'mps', 'cpu', or '' for the fastest there is
num_workers = 2  # processes that load frames, 0 for none
eval_every = 2  # epochs between evaluations on val
save_minutes = 3.0  # minutes between saves (also after each epoch)
checkpoint_path = '.'  # folder of net.pt, optim.pt, iter.txt, net_best.pt
log_path = 'logs'  # folder of TensorBoard's logs
progress = True  # show progress bars


def main():
    settings = override(globals())
    require(
        settings,
        **dict.fromkeys(('batch_size', 'accumulate', 'n_epoch', 'eval_every'), (1, None)),
        **dict.fromkeys(('lr', 'warmup_epochs', 'weight_decay', 'save_minutes', 'vram_limit_gib'), (0, None)),
        **dict.fromkeys(('flip', 'colour', 'ema_decay'), (0, 1)),
        **{'hue': (0, 0.5), 'num_workers': (0, 256), 'seed': (0, 2**63 - 1), 'clip_norm': (1e-6, None)},
    )
    if not 0 < scale[0] <= scale[1]:
        raise UserError(f'scale={scale}: it takes the lowest and the highest factor, like (0.6, 1.6).')
    if not train_split:
        raise UserError("train_split='': name the split to learn, like 'train'.")
    torch.manual_seed(seed)
    chosen_device = inference.pick_device(device)
    training.cap_gpu_memory(chosen_device, vram_limit_gib)

    # Frames and class names, with every problem of the data shown before anything starts.
    root = resolve(__file__, konohana_dataset_path)
    splits = [train_split, val_split] if val_split else [train_split]
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

    transform = training_transform(img_hw, flip, scale, shift, colour, hue)
    train_set = Frames(train_frames, class_names, transform, img_hw if mosaic else None, seed)
    val_set = Frames(val_frames, class_names)
    loader = DataLoader(
        train_set,
        batch_sampler=EpochBatches(len(train_set), batch_size, seed),
        num_workers=num_workers,
        collate_fn=collate,
        pin_memory=chosen_device.type == 'cuda',
        persistent_workers=num_workers > 0,
        worker_init_fn=training.ignore_interrupts,
    )

    # Network, optimizer, and what an earlier run left.
    options = {'use_res2block': use_res2block} if detector == 'konohana' else {}
    model = detectors.build(detector, len(class_names), img_hw, **options)
    model = model.to(chosen_device, memory_format=torch.channels_last)
    ema = training.Ema(model, ema_decay)
    optimizer = training.make_optimizer(model, lr, weight_decay)
    scaler = torch.amp.GradScaler(chosen_device.type, enabled=amp and chosen_device.type == 'cuda')
    description = {'detector': detector, 'options': options, 'class_names': class_names, 'img_hw': list(img_hw)}
    order = {'seed': seed, 'batch_size': batch_size, 'frames': len(train_set)}
    state = training.Run(
        resolve(__file__, checkpoint_path), model, ema, optimizer, scaler, description, order, use_res2block
    )
    message = state.resume()
    if message:
        print(message)
    if state.iteration == 0 and init_from:
        print(initialise(model, class_names, train_frames))
        ema.model.load_state_dict(model.state_dict())

    print(
        f'{len(train_frames)} frames to learn from, {len(val_frames)} to judge by, {len(class_names)} names: '
        f'{", ".join(class_names)}. Training {detector} on {chosen_device}.'
    )
    if state.epoch >= n_epoch:
        print(f'{state.net_file} has its {state.epoch} epochs already. Raise n_epoch, or delete it to start afresh.')
        return
    with (
        logs.Log(resolve(__file__, log_path) / state.net_file.stem, state.iteration) as log,
        training.StopRequest() as stop,
        training.out_of_memory_explained(chosen_device, settings),
    ):
        while state.epoch < n_epoch:
            losses, rate = training.train_one_epoch(state, loader, chosen_device, settings, stop, log.scalar)
            if stop.requested:
                state.save()
                print(f'Stopped at iteration {state.iteration} and saved. Run the same command again to go on.')
                return
            line = f'Epoch {state.epoch}/{n_epoch}: ' + ', '.join(f'{key} {value:.3f}' for key, value in losses.items())
            line += f', {rate:.1f} images/s'
            if val_frames and (state.epoch % eval_every == 0 or state.epoch == n_epoch):
                detections = evaluation.predict_dataset(ema.model, val_set, progress=progress)
                figures = evaluation.evaluate(val_frames, detections, class_names)
                state.figures = figures
                state.save_best(figures['AP'])
                log.figures(figures, state.iteration)
                log.pictures(val_set, detections, state.iteration)
                line += f'; val AP {figures["AP"]:.3f}, AP50 {figures["AP50"]:.3f}'
                line += f', found (AP50) {figures["AP50_agnostic"]:.3f}'
            print(line)
            state.save()
    print(f'Done. Weights: {state.net_file}' + (f', the best on val: {state.best_file}' if val_frames else ''))


def initialise(model, class_names, frames):
    """Start from other weights; returns what was done, as text."""
    if init_from == 'efficientnet_lite0':
        from konohana import pretrained

        return pretrained.start_from_lite0(model, [frame.path for frame in frames], batch_size, seed, progress)
    path = resolve(__file__, init_from)
    content = checkpoint.load(path)
    same_classes = content['class_names'] == class_names
    left = checkpoint.fit_weights(model, content['model'], skip=() if same_classes else model.class_layers)
    text = f'Starting from {path}.'
    if not same_classes:
        text += f' Its classes were {", ".join(content["class_names"])}, so the class layer starts anew.'
    if left:
        text += f' Not taken from there: {", ".join(left[:8])}{" ..." if len(left) > 8 else ""}.'
    return text


if __name__ == '__main__':
    run(main)
